//! What is tried under faults: operations, and what each finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bed::{APP, BASE, Bed};
use crate::common::need;
use crate::common::store::Done;

/// A command, and those that run before it without a fault. `GIVEN` and `PLACE` stand for the
/// directories, `CHAIN` for the stack of the image that is there.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub name: &'static str,
    before: &'static [&'static str],
    command: &'static str,
}

const fn row(
    name: &'static str,
    before: &'static [&'static str],
    command: &'static str,
) -> Operation {
    Operation { name, before, command }
}

const LOAD: &str = "load -q -i GIVEN/app";

/// The container `web` is there, stands on the base image, and was changed.
pub const OPERATIONS: &[Operation] = &[
    row("make a store", &["!rm -rf PLACE/store"], "ps -q"),
    row("load", &[], LOAD),
    row("load from a stream", &[], "load -q -i GIVEN/app.tar.gz"),
    row("load and take a name", &[], "load -q -i GIVEN/newer"),
    row("load without durability", &[], "--durability none load -q -i GIVEN/app"),
    row("apply", &[], "layer apply -q --parent CHAIN GIVEN/change.tar"),
    row("apply a variant", &[], "layer apply -q --parent CHAIN GIVEN/assuming.tar"),
    row(
        "remove a layer",
        &["layer apply -q --parent CHAIN GIVEN/change.tar"],
        "layer rm CHAIN+GIVEN/change.tar",
    ),
    row("create", &[], "create --name late BASE"),
    row("create on a chain", &[], "create --name late --chain CHAIN"),
    row("mount", &[], "mount web"),
    row("mount elsewhere", &["!mkdir PLACE/target"], "mount web PLACE/target"),
    row("mount volatile", &[], "mount --volatile web"),
    row("unmount", &["mount web"], "unmount web"),
    row("unmount volatile", &["mount --volatile web"], "unmount web"),
    row("commit", &[], "commit -q web faults.test/new:latest"),
    row("remove a container", &[], "rm web"),
    row("remove an image", &[LOAD], "rmi APP"),
    row("check", &[LOAD], "check"),
    row("check quickly", &[LOAD], "check --quick"),
    row(
        "repair",
        &[
            LOAD,
            "!echo damaged > $(ls PLACE/store/layers/*/diff/app/run); touch -d @1 $(ls PLACE/store/layers/*/diff/app/run)",
        ],
        "repair --from GIVEN/app",
    ),
    row(
        "collect garbage",
        // Removed by one that was killed: what stands in the trash, and what was only its own.
        &[
            LOAD,
            "!mv PLACE/store/images/$(cat GIVEN/app.id) PLACE/store/trash/image-$(cat GIVEN/app.id).0",
        ],
        "gc",
    ),
    row("save", &[LOAD], "save -q -o PLACE/saved.tar APP"),
    row(
        "save as docker-archive",
        &[LOAD],
        "save -q --format-archive docker -o PLACE/saved.tar APP",
    ),
    row("export over a file", &["!echo old > PLACE/out.tar"], "export -q -o PLACE/out.tar web"),
    row(
        "write a diff over a file",
        &["!echo old > PLACE/out.tar"],
        "diff --tar -q -o PLACE/out.tar web",
    ),
];

impl Operation {
    /// Whether the command can do it, and it is asked for: `OVERLAY2_OPERATION` may be a part of a
    /// name, or several with commas between.
    pub fn is_known(&self, bed: &Bed) -> bool {
        if let Ok(asked) = std::env::var("OVERLAY2_OPERATION")
            && !asked.split(',').any(|part| self.name.contains(part))
        {
            return false;
        }
        bed.knows(self.command.trim_start_matches("--durability none ").split(' ').next().unwrap())
    }

    /// A place in which everything is ready for the command.
    pub fn prepare(&self, bed: &Bed) -> PathBuf {
        let place = bed.place();
        for step in self.before {
            match step.strip_prefix('!') {
                Some(shell) => {
                    let shell = shell
                        .replace("PLACE", place.to_str().unwrap())
                        .replace("GIVEN", bed.path("given").to_str().unwrap());
                    need::run(Command::new("sh").arg("-c").arg(shell));
                }
                None => {
                    Done::of(&mut command(bed, &place, step)).good();
                }
            }
        }
        place
    }

    /// The command itself.
    pub fn command(&self, bed: &Bed, place: &Path) -> Command {
        command(bed, place, self.command)
    }
}

fn command(bed: &Bed, place: &Path, words: &str) -> Command {
    let mut command = bed.command(place);
    for word in words.split(' ') {
        let chain = || fs::read_to_string(bed.path("given/chain")).unwrap();
        command.arg(match word {
            "APP" => APP.to_owned(),
            "BASE" => BASE.to_owned(),
            "CHAIN" => chain(),
            _ if word.starts_with("CHAIN+") => applied(bed, place),
            _ => word
                .replace("GIVEN", bed.path("given").to_str().unwrap())
                .replace("PLACE", place.to_str().unwrap()),
        });
    }
    command
}

/// The pinned stack of a place.
fn applied(bed: &Bed, place: &Path) -> String {
    let listed = need::run(bed.command(place).args(["layer", "ls", "-q"]));
    let chain = fs::read_to_string(bed.path("given/chain")).unwrap();
    listed.lines().find(|line| *line != chain).unwrap().to_owned()
}
