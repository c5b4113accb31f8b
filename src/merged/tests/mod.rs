//! The same behaviour on the kernel's overlayfs and on the userspace tree.

mod backend;
mod bed;
mod laws;
mod machine;
mod rows;

/// Whether a test that this machine cannot run may be left out.
fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    assert!(
        std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"),
        "{test} could not run: {reason}"
    );
}
