//! What a shell and a reader of manuals are told of the command line.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, Completions, Man};

/// Prints what a shell needs to complete commands.
pub(crate) fn completions(completions: &Completions) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(completions.shell, &mut Cli::command(), "overlay2", &mut text);
    print(&text)
}

/// Prints the manual's page of the whole command, or writes one of each command into a directory.
pub(crate) fn man(man: &Man) -> io::Result<()> {
    let command = Cli::command();
    if let Some(dir) = &man.dir {
        return clap_mangen::generate_to(command, dir).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("write the manual into {}: {error}", dir.display()),
            )
        });
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    print(&text)
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}
