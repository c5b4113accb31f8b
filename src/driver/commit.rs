//! A container's changes as one more layer, and an image with it on top.

use std::io::Read;

use super::Driver;
use super::compose::Below;
use super::container::Base;
use super::layer::{Expected, Unpacked};
use super::load::LoadedImage;
use crate::changeset::{self, DiffOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Commit, ConfigChanges, Reference, commit_config};
use crate::inode::Timestamp;
use crate::pipe::{self, PipeWriter};
use crate::store::Retention;
use crate::watch::Watch;

/// What a new image tells of the step that made it, and how its layer is written.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Who made it.
    pub author: Option<String>,
    /// What it is.
    pub message: Option<String>,
    /// The command that ran in the container.
    pub created_by: Option<String>,
    /// When; now where it is `None`.
    pub created: Option<Timestamp>,
    /// What the image says otherwise of its process: `ENTRYPOINT`, `CMD`, `ENV` and the like.
    pub config: ConfigChanges,
    /// How the changeset is written.
    pub diff: DiffOptions,
}

impl CommitOptions {
    fn step(&self) -> Commit {
        Commit {
            created: self.created.unwrap_or_else(now),
            created_by: self.created_by.clone(),
            author: self.author.clone(),
            comment: self.message.clone(),
            changes: self.config.clone(),
        }
    }
}

impl Driver {
    /// Makes an image: that of the container, with one more layer of what the container changed.
    ///
    /// # Errors
    /// As [`changes`](Self::changes), and what the store answers.
    pub fn commit(
        &self,
        container: &str,
        name: &str,
        options: &CommitOptions,
        watch: Watch<'_>,
    ) -> Result<LoadedImage> {
        let name: Reference = name.parse()?;
        if name.digest().is_some() {
            let message = format!("{name} names a digest, which the new image cannot have");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("name a tag alone"));
        }
        self.commit_as(container, &name, options, watch)
            .map_err(|error| error.within(format_args!("commit container {container}")))
    }

    fn commit_as(
        &self,
        container: &str,
        name: &Reference,
        options: &CommitOptions,
        watch: Watch<'_>,
    ) -> Result<LoadedImage> {
        let record = self.store.find_container(container)?;
        let (parent, unpacked) = self.reading(&record, || {
            let parent = record.chain.as_ref().map(|chain| self.chain(chain)).transpose()?;
            let below = Below::open(self, record.chain)?;
            let upper = self.upper(&record)?;
            let (stack, diff) = (&below.stack, &options.diff);
            let expected = Expected { subject: container, ..Expected::default() };
            let unpacked = self.pipe(expected, watch, |out| {
                changeset::pack_diff(&upper, stack, out, diff, container, &watch).map(drop)
            })?;
            Ok((parent, unpacked))
        })?;
        let Unpacked { finished, applied } = unpacked;

        let (mut config, mut diff_ids) = (None, Vec::new());
        if let Some(image) = &record.image {
            config = Some(self.store.image_config(image)?);
        }
        if let Some(chain) = &record.chain {
            diff_ids = self.store.stack(chain)?.iter().rev().map(|entry| entry.diff_id).collect();
        }
        diff_ids.push(applied.diff_id);
        let commit = options.step();
        let config = match config {
            Some(config) => commit_config(Some(&config), Some(&applied.diff_id), &commit)?,
            None => self.config_of_chain(&diff_ids, &commit)?,
        };
        let mut leased = self.store.commit_layers(vec![finished])?;
        let chain = self.stack_up(parent, &mut leased, Retention::WhileUsed, watch)?;
        self.put_image(&config, diff_ids, Some(chain), &[name.to_string()])
    }

    /// Makes an image without a container: of an image, one with one more step, which has no layer;
    /// of a stack, one with its layers, the topmost of which is the step's.
    ///
    /// So `ENV` and `CMD` of a Dockerfile are made, and `FROM` of layers that were
    /// [applied](Self::apply) one at a time.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such image or stack.
    pub fn make_image(
        &self,
        base: &Base,
        name: &str,
        options: &CommitOptions,
    ) -> Result<LoadedImage> {
        let name: Reference = name.parse()?;
        let (chain, config) = match base {
            Base::Image(text) => {
                let (image, _) = self.store.image_called(text)?;
                let config = self.store.image_config(&image.id)?;
                let leased = image.chain.as_ref().map(|chain| self.chain(chain));
                (leased.transpose()?, Some(config))
            }
            Base::Chain(chain) => (Some(self.chain(chain)?), None),
        };
        let mut diff_ids = Vec::new();
        if let Some(chain) = &chain {
            let stack = self.store.stack(&chain.chain())?;
            diff_ids.extend(stack.iter().rev().map(|entry| entry.diff_id));
        }
        let config = match config {
            Some(config) => commit_config(Some(&config), None, &options.step())?,
            None => self.config_of_chain(&diff_ids, &options.step())?,
        };
        self.put_image(&config, diff_ids, chain, &[name.to_string()])
    }

    /// Makes an image of one changeset: what `FROM scratch` and `ADD` make in a Dockerfile. The
    /// changeset is plain, or compressed with gzip or zstd.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn import(
        &self,
        changeset: impl Read,
        name: &str,
        options: &CommitOptions,
        watch: Watch<'_>,
    ) -> Result<LoadedImage> {
        let name: Reference = name.parse()?;
        let expected = Expected { subject: "changeset", ..Expected::default() };
        let Unpacked { finished, applied } = self.unpack(changeset, expected, watch)?;
        let config = commit_config(None, Some(&applied.diff_id), &options.step())?;
        let mut leased = self.store.commit_layers(vec![finished])?;
        let chain = self.stack_up(None, &mut leased, Retention::WhileUsed, watch)?;
        self.put_image(&config, vec![applied.diff_id], Some(chain), &[name.to_string()])
    }

    /// Gives an image one more name, and takes the name from the image that had it; tells the name
    /// as it is kept.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such image;
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where the name is none.
    pub fn tag(&self, image: &str, name: &str) -> Result<String> {
        let name = name.parse::<Reference>()?.to_string();
        self.store.tag(&self.store.image_id(image)?, &name)?;
        Ok(name)
    }

    /// Unpacks a changeset that `write` writes meanwhile, on a thread of its own: nothing of it is
    /// kept anywhere else.
    pub(super) fn pipe(
        &self,
        expected: Expected<'_>,
        watch: Watch<'_>,
        write: impl FnOnce(&mut PipeWriter) -> Result<()> + Send,
    ) -> Result<Unpacked> {
        pipe::between(write, |reader| self.unpack(reader, expected, watch)).map(|(_, read)| read)
    }

    /// The config of an image whose layers were applied one at a time.
    fn config_of_chain(
        &self,
        diff_ids: &[crate::digest::DiffId],
        commit: &Commit,
    ) -> Result<Vec<u8>> {
        let mut config: Option<Vec<u8>> = None;
        let untold = Commit { created: commit.created, ..Commit::default() };
        for (index, diff_id) in diff_ids.iter().enumerate() {
            let step = if index + 1 == diff_ids.len() { commit } else { &untold };
            config = Some(commit_config(config.as_deref(), Some(diff_id), step)?);
        }
        config.map_or_else(|| commit_config(None, None, commit), Ok)
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos() }
}
