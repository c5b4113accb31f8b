//! Any bytes as a changeset: nothing panics, nothing appears outside the layer directory, and what
//! was applied is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay2::changeset::{ApplyOptions, Ownership, apply, reassemble};
use overlay2::{Dir, Namespace, Watch};

fuzz_target!(|bytes: &[u8]| {
    let place = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(place.path().join("side/diff")).expect("create");
    let side = Dir::open_ambient(place.path().join("side")).expect("open");
    let dir = Dir::open_ambient(place.path().join("side/diff")).expect("open");
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = Ownership::Recorded;
    options.limits.file_bytes = 1 << 24;
    options.side = Some(&side);
    if let Ok(applied) = apply(bytes, &dir, &options) {
        let mut again = Vec::new();
        let (digest, length) =
            reassemble(&dir, &side, &mut again, "fuzz", Watch::new()).expect("written again");
        assert_eq!((digest, length), (*applied.diff_id.digest(), applied.changeset_bytes));
    }
    let outside = std::fs::read_dir(place.path()).expect("read").count();
    assert_eq!(outside, 1, "something appeared outside");
});
