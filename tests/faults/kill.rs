//! Each operation killed before each system call that changes anything: the store is as before, or
//! as after, and nothing is left.

use crate::bed::Bed;
use crate::common::store::Done;
use crate::operations::{OPERATIONS, Operation};
use crate::sample::Failures;
use crate::snapshot::snapshot;
use crate::trace::{self, Fault, Outcome, Point};
use crate::{require_tool, sample, sandbox};

/// How many points of each operation an ordinary run tries.
const SAMPLE: usize = 12;

#[test]
fn e80_killed_at_any_call_leaves_the_store_as_before_or_as_after() {
    sandbox!();
    require_tool!("strace");
    let bed = Bed::with_container();
    let (mut failures, mut total) = (Failures::default(), 0);
    for operation in OPERATIONS.iter().filter(|operation| operation.is_known(&bed)) {
        let (points, old, new) = endings(&bed, operation);
        let points: Vec<_> = points.into_iter().filter(Point::changes).collect();
        let all = points.len();
        let mut killed = [0; 2];
        for point in sample::of(points, SAMPLE) {
            let place = operation.prepare(&bed);
            let command = operation.command(&bed, &place);
            match trace::run(&command, &bed.path("log"), &point, Fault::Kill) {
                None => continue,
                Some(Outcome::Killed) => {}
                Some(Outcome::Ended(done)) => panic!("{point:?}: {done:?}"),
            }
            let found = bed.opened(&place);
            let what = || {
                format!("{} killed at {} {}: {}", operation.name, point.call, point.nth, point.line)
            };
            if found == new {
                killed[1] += 1;
            } else if found == old {
                killed[0] += 1;
                let again = Done::of(&mut operation.command(&bed, &place));
                if again.status != 0 || snapshot(&place) != new {
                    failures.push(format!("{}\n  cannot be repeated: {again:?}", what()));
                }
            } else {
                failures.push(format!("{}\n{}", what(), sample::difference(&old, &new, &found)));
            }
        }
        total += killed[0] + killed[1];
        let [before, after] = killed;
        eprintln!(
            "killed {}: at {} of {all} calls that change something; {before} left it as before, {after} as after",
            operation.name,
            before + after
        );
    }
    bed.clear();
    eprintln!("killed at {total} system calls, {} losses", failures.0.len());
    assert!(failures.0.is_empty(), "{}", failures.0.join("\n"));
}

/// The system calls of an operation, and the place before and after it.
pub fn endings(bed: &Bed, operation: &Operation) -> (Vec<Point>, Vec<String>, Vec<String>) {
    let place = operation.prepare(bed);
    let old = if place.join("store").exists() { bed.opened(&place) } else { snapshot(&place) };
    let command = operation.command(bed, &place);
    let points = trace::calls(&command, &bed.path("log"), &place);
    let new = snapshot(&place);
    let opened = bed.opened(&place);
    assert_eq!(new, opened, "{}: opening changes nothing when all went well", operation.name);
    (points, old, new)
}
