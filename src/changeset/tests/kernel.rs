//! Uppers that the kernel made.

use std::process::Command;

use super::*;

/// What happens in the mounted tree.
const CHANGES: &str = r#"
    echo changed > etc/changed; chmod 600 etc/mode; rm etc/gone; rm -r gone
    rm -r again; mkdir again; echo new > again/new
    mkdir fresh; echo 1 > fresh/a; ln fresh/a fresh/b; ln -s a fresh/s; mkfifo fresh/p
    mv etc/name etc/renamed; setfattr -n user.x -v y etc/attr; rm swap; mkdir swap
    setfattr -n trusted.overlay.mine -v own etc/attr
"#;

/// Mounts `lower` with an upper, runs the changes in it, and prints what the mounted tree shows.
fn run(root: &Path, options: &str, changes: &str) -> Result<String, String> {
    let script = format!(
        "set -e; cd '{}'; mkdir -p upper work merged
         mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,{options} merged
         cd merged; {changes}
         find . -mindepth 1 -printf '%P\\t%y\\t%m\\t%l\\n' | LC_ALL=C sort",
        root.display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `find` would print of a tar.
fn found(bytes: &[u8]) -> String {
    let mut archive = tar::Archive::new(bytes);
    let mut lines: Vec<String> = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Fifo => 'p',
            _ => 'f',
        };
        let target = if kind == 'l' { entry.link_name_bytes() } else { None };
        let target = String::from_utf8_lossy(&target.unwrap_or_default()).into_owned();
        lines.push(format!("{name}\t{kind}\t{:o}\t{target}\n", entry.header().mode().unwrap()));
    }
    lines.sort();
    lines.concat()
}

fn lower(root: &Path) -> Dir {
    make(
        root,
        "lower",
        &[
            "etc/",
            "etc/changed=1",
            "etc/mode=1",
            "etc/gone=1",
            "etc/same=1",
            "etc/name=1",
            "etc/attr=1",
            "gone/",
            "gone/x=1",
            "again/",
            "again/old=1",
            "swap=1",
            "dir/",
            "dir/x=1",
            "dir/sub/",
            "dir/sub/y=1",
            "to/",
        ],
    )
}

#[test]
fn what_the_kernel_made_is_told_and_written() {
    let name = "what_the_kernel_made_is_told_and_written";
    let plain = "C/again A/again/new D/again/old C/etc C/etc/attr C/etc/changed D/etc/gone \
                 C/etc/mode D/etc/name A/etc/renamed A/fresh A/fresh/a A/fresh/b A/fresh/p \
                 A/fresh/s D/gone C/swap";
    let moved = "D/dir C/to A/to/moved A/to/moved/sub A/to/moved/sub/y A/to/moved/x";
    let sorted = |text: String| {
        let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        words.sort_by(|one, other| one[1..].cmp(&other[1..]));
        words.join(" ")
    };
    for (options, more, expected) in [
        ("redirect_dir=off,metacopy=off,index=off", "", plain.to_owned()),
        ("redirect_dir=on,metacopy=on", "mv dir to/moved", sorted(format!("{plain} {moved}"))),
        ("xino=on,index=on,redirect_dir=on", "mv dir to/moved", sorted(format!("{plain} {moved}"))),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let lower = lower(temporary.path());
        let shown = match run(temporary.path(), options, &format!("{CHANGES}{more}")) {
            Ok(shown) => shown,
            Err(why) => return skip(name, &why),
        };
        let upper = Dir::open_ambient(temporary.path().join("upper")).unwrap();
        let below =
            Stack::new(vec![lower.try_clone().unwrap()], Namespace::Trusted, Redirects::Follow);
        assert_eq!(changes(&upper, &below, View::Kernel), expected, "{options}");

        let layers = vec![upper.try_clone().unwrap(), lower];
        let whole = Stack::new(layers, Namespace::Trusted, Redirects::Follow);
        let mut out = Vec::new();
        let all = DiffOptions { root: RootEntry::Never, ..Default::default() };
        export(&whole, &mut out, &all, "test", &Watch::new()).unwrap();
        assert_eq!(found(&out), shown, "{options}");

        let written = packed(&upper, &below, &all);
        let text = listing(&written);
        for part in ["again/ again/.wh..wh..opq again/new=new\n", "etc/mode=1", "fresh/b~fresh/a"] {
            assert!(text.contains(part), "{options}: {part} in {text}");
        }
        assert_eq!(text.matches(".wh..wh..opq").count(), 1, "{options}: {text}");
        let bytes = String::from_utf8_lossy(&written);
        assert_eq!(bytes.matches("trusted.overlay.").count(), 1);
        assert!(bytes.contains("SCHILY.xattr.trusted.overlay.mine=own\n"));
    }
}

/// Another kernel mount of the same directories shows whether a mark in an upper is one.
#[test]
fn e62_a_mark_in_an_upper_is_what_the_kernel_takes_it_for() {
    let name = "e62_a_mark_in_an_upper_is_what_the_kernel_takes_it_for";
    let temporary = tempfile::tempdir().unwrap();
    let lower = lower(temporary.path());
    let upper = make(temporary.path(), "upper", &["etc/", "etc/same="]);
    let etc = upper.child(b"etc").unwrap();
    let marked = xattr::set(Target::open(&etc), b"trusted.overlay.opaque", b"x")
        .and_then(|()| xattr::set(Target::Name(&etc, b"same"), b"trusted.overlay.whiteout", b"y"));
    if let Err(why) = marked {
        return skip(name, &why.to_string());
    }
    let shown = match run(temporary.path(), "redirect_dir=off", "") {
        Ok(shown) => shown,
        Err(why) => return skip(name, &why),
    };
    let below = Stack::new(vec![lower], Namespace::Trusted, Redirects::Refuse);
    let told = changes(&upper, &below, View::Kernel);
    assert_eq!(told.contains("D/etc/same"), !shown.contains("etc/same"), "{told}\n{shown}");
}
