//! What was probably meant by a name that there is not.

use overlay2::Driver;

use crate::args::Command;
use crate::args::run::{Bundle, Exec, Run};

/// What a name was to stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Container,
    Image,
    Either,
}

/// A hint for each name on the command line that stands for nothing, where another one is like it.
pub(crate) fn hints(driver: &Driver, command: &Command) -> Vec<String> {
    let mut missing = typed(command);
    missing.retain(|(_, typed)| matches!(driver.has(typed), Ok(false)));
    if missing.is_empty() {
        return Vec::new();
    }
    let (Ok(containers), Ok(images)) = (driver.containers(), driver.images()) else {
        return Vec::new();
    };
    let containers: Vec<String> = containers.into_iter().map(|one| one.name).collect();
    let images: Vec<String> = images.into_iter().flat_map(|one| one.names).collect();
    let mut hints = Vec::new();
    for (wanted, typed) in missing {
        let mut known = Vec::new();
        if wanted != Wanted::Image {
            known.extend(&containers);
        }
        if wanted != Wanted::Container {
            known.extend(&images);
        }
        let like = nearest(&typed, known.into_iter().map(String::as_str));
        hints.extend(like.map(|like| format!("did you mean {like}?")));
    }
    hints
}

/// The names on a command line, and what each has to stand for.
fn typed(command: &Command) -> Vec<(Wanted, String)> {
    use Wanted::{Container, Either, Image};
    let all = |wanted, names: &[String]| names.iter().map(|name| (wanted, name.clone())).collect();
    let one = |wanted, name: &String| vec![(wanted, name.clone())];
    // Of NAME:PATH the name.
    let place = |typed: &std::ffi::OsString| {
        let text = typed.to_string_lossy();
        let name = text.split_once(":/").map_or(text.as_ref(), |(name, _)| name);
        (Either, name.to_owned())
    };
    match command {
        Command::History(args) => one(Image, &args.image),
        Command::Inspect(args) => all(Either, &args.names),
        Command::Tag(args) => one(Image, &args.image),
        Command::Save(args) => one(Image, &args.image),
        Command::Rmi(args) => all(Image, &args.images),
        Command::Create(args) => args.image.iter().map(|name| (Image, name.clone())).collect(),
        Command::Run(Run { image, .. }) => one(Image, image),
        Command::Mount(args) => one(Container, &args.container),
        Command::Unmount(args) => all(Container, &args.containers),
        Command::Exec(Exec { container, .. }) | Command::Bundle(Bundle { container, .. }) => {
            one(Container, container)
        }
        Command::Commit(args) => one(Container, &args.container),
        Command::Export(args) => one(Container, &args.container),
        Command::Recover(args) => one(Container, &args.container),
        Command::Rm(args) => all(Container, &args.containers),
        Command::Diff(args) => match args.what.split_once("..") {
            Some((from, to)) => vec![(Either, from.to_owned()), (Either, to.to_owned())],
            None => one(Container, &args.what),
        },
        Command::Ls(args) => args.places.iter().map(place).collect(),
        Command::Cat(args) => args.places.iter().map(place).collect(),
        Command::Stat(args) => args.places.iter().map(place).collect(),
        Command::Tree(args) => vec![place(&args.place)],
        Command::Which(args) => one(Either, &args.name),
        _ => Vec::new(),
    }
}

/// The known name that is most like what was typed, if any is like it at all.
fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (typed.chars().count() / 3).max(1);
    let near = known.filter_map(|name| {
        let (path, tag) = name.rsplit_once(':').unwrap_or((name, ""));
        // Without the tag, or the host and folders before it: somebody typed less than there is.
        let last = path.rsplit('/').next().unwrap_or(path);
        let tagged = if tag.is_empty() { last.to_owned() } else { format!("{last}:{tag}") };
        let spellings = [name, path, last, tagged.as_str()];
        let distance = spellings.iter().map(|one| strsim::damerau_levenshtein(typed, one)).min()?;
        (distance <= bound).then_some((distance, name))
    });
    near.min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_it_is_found() {
        let known = ["images.local/debian:latest", "web", "example/app:1", "example/app:2"];
        for (typed, expected) in [
            ("wbe", Some("web")),
            ("debain", Some("images.local/debian:latest")),
            ("debian", Some("images.local/debian:latest")),
            ("app:2", Some("example/app:2")),
            ("exmaple/app:2", Some("example/app:2")),
            ("postgres", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), expected, "{typed}");
        }
    }
}
