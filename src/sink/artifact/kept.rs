//! A night's artifact: flat, for smolvm knows no marks of deletions. Fresh layers go in without their marks, and of layers
//! of the last image what is alive.

use std::io::{self, BufReader, Read};

use tokio::runtime::Handle;

use super::incoming::Incoming;
use super::made::{Made, Split};
use super::manifest::Contents;
use super::seed::Seed;
use super::side::SideFile;
use super::writing::Unfinished;
use super::{ArtifactSink, failed};
use crate::error::Result;
use crate::night::flat::Names;
use crate::oci::{Compression, DiffId};
use crate::pipeline::gather::{Layer, LiveEnd};
use crate::stage::decode::decoder;
use crate::stage::header::Kind;
use crate::stage::stack::{self, Above, Output};
use crate::stage::walk::{Entry, Walk};
use crate::stop::Stop;

/// Bytes that are decoded at a time.
const READ_BYTES: usize = 256 << 10;

impl ArtifactSink {
    /// What is put from now on goes in without marks of deletions.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn leave_marks_out(&self) -> Result<()> {
        self.step(|unfinished| {
            unfinished.embedded.without_marks = true;
            Ok(())
        })
        .await
    }

    /// Embeds what stays of a layer without what is `left_out`, one of `/workspace` or another; gives the layer that
    /// stands for it, if anything stayed.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn put_rest(
        &self,
        (side, end): (SideFile, LiveEnd),
        left_out: Option<Above>,
        workspace: bool,
    ) -> Result<Option<DiffId>> {
        let stop = self.options.stop.clone();
        self.step(move |unfinished| {
            let diff_id = end.diff_id;
            if left_out.is_none() && !workspace {
                if !unfinished.embedded.layers.contains_key(&diff_id) {
                    unfinished.embed_side(side, &end)?;
                }
                return Ok(Some(diff_id));
            }
            unfinished.embed_rest(|| tar_in(&side, &end, &stop), left_out.unwrap_or_default(), workspace)
        })
        .await
    }

    /// Adds what the content of `/workspace` in the last artifact has of `names`, which are paths in the image.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn put_last_seed(&self, side: SideFile, names: Names) -> Result<()> {
        let stop = self.options.stop.clone();
        self.step(move |unfinished| {
            unfinished.embed_last_seed(
                || decoder(BufReader::with_capacity(READ_BYTES, side.reading(&stop)), Compression::Zstd),
                &names,
            )
        })
        .await
    }

    /// The layers of the image are `below`, as they were embedded, and above them what stands for `fresh`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn lay_out(&self, below: Vec<DiffId>, fresh: Vec<DiffId>) -> Result<()> {
        self.step(move |unfinished| {
            let embedded = &mut unfinished.embedded;
            let fresh: Vec<_> = fresh.into_iter().filter_map(|diff_id| embedded.stand_in(diff_id)).collect();
            embedded.order = Some([below, fresh].concat());
            Ok(())
        })
        .await
    }

    /// A file without a name beside the artifact.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn side(&self) -> Result<SideFile> {
        SideFile::beside(&self.target).map_err(|error| failed("gathering a layer", &self.target, error))
    }

    /// What is in it, once it is complete.
    pub(crate) fn contents(&self) -> Option<&Contents> {
        self.contents.get()
    }
}

impl Unfinished {
    /// Embeds a layer that is complete; gives the bytes that were written.
    pub(super) fn embed_gathered(&mut self, layer: &Layer, runtime: &Handle, stop: &Stop) -> io::Result<u64> {
        let stored = || Incoming::gathered(layer, runtime, stop);
        if self.embed_unmarked(layer.diff_id, || stored().decoded())? {
            return Ok(layer.descriptor.size);
        }
        self.embed_layer(stored())
    }

    /// The same of one that lies beside the artifact.
    pub(super) fn embed_beside(&mut self, side: SideFile, end: &LiveEnd, stop: &Stop) -> io::Result<u64> {
        if self.embed_unmarked(end.diff_id, || tar_in(&side, end, stop))? {
            return Ok(end.descriptor.size);
        }
        self.embed_side(side, end)
    }

    /// Embeds a layer without its marks, if it has any and they are to be left out; whether that was done. `tar` begins
    /// to read it.
    pub(super) fn embed_unmarked<R: Read>(
        &mut self,
        diff_id: DiffId,
        tar: impl Fn() -> io::Result<R>,
    ) -> io::Result<bool> {
        if !self.embedded.without_marks || !stack::has_marks(tar()?)? {
            return Ok(false);
        }
        let stands_in = self.embed_rest(tar, Above::default(), false)?;
        self.embedded.stand_ins.insert(diff_id, stands_in);
        Ok(true)
    }

    /// Embeds what of a layer is not `left_out`; gives the layer that stands for it.
    fn embed_rest<R: Read>(
        &mut self,
        tar: impl Fn() -> io::Result<R>,
        mut left_out: Above,
        workspace: bool,
    ) -> io::Result<Option<DiffId>> {
        let names = left_out.names();
        let found = stack::look(tar()?, &mut left_out, &names)?;
        let target = self.path().to_owned();
        let mut split =
            Split { layer: Made::beside(&target)?, seed: &mut self.seed, target: &target, drop_rest: workspace };
        stack::rewrite(tar()?, &found, &left_out, &names, &mut split)?;
        let made = split.layer;
        self.seed.iter_mut().for_each(Seed::end_layer);
        if made.is_empty() {
            return Ok(None);
        }
        let (side, end) = made.finish()?;
        if !self.embedded.layers.contains_key(&end.diff_id) {
            self.embed_side(side, &end)?;
        }
        Ok(Some(end.diff_id))
    }

    fn embed_last_seed<R: Read>(&mut self, tar: impl Fn() -> io::Result<R>, stays: &Names) -> io::Result<()> {
        let mut left_out = Above::default();
        let mut walk = Walk::new(tar()?);
        while let Some(entry) = walk.next()? {
            let path = entry.path()?;
            if !entry.is_folder() && !stays.has(&in_workspace(&path)) {
                left_out.delete(&path);
            }
        }
        let seed = match &mut self.seed {
            Some(seed) => seed,
            none => none.insert(Seed::beside(self.temporary.path())?),
        };
        let names = left_out.names();
        let found = stack::look(tar()?, &mut left_out, &names)?;
        stack::rewrite(tar()?, &found, &left_out, &names, &mut Again { seed, stays })
    }
}

/// The tar of a layer that lies beside the artifact.
pub(super) fn tar_in<'a>(side: &'a SideFile, end: &LiveEnd, stop: &'a Stop) -> io::Result<Box<dyn Read + 'a>> {
    let stored_as = Compression::from_media_type(&end.descriptor.media_type).unwrap_or(Compression::None);
    decoder(BufReader::with_capacity(READ_BYTES, side.reading(stop)), stored_as)
}

/// A path below `/workspace`, in the image.
fn in_workspace(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { stack::WORKSPACE.to_vec() } else { [stack::WORKSPACE, b"/", path].concat() }
}

/// Entries of a seed on their way into the next one.
struct Again<'a> {
    seed: &'a mut Seed,
    stays: &'a Names,
}

impl Output for Again<'_> {
    fn put(&mut self, entry: &Entry, path: &[u8], changed: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        let path = in_workspace(path);
        // A folder that is described anew came before.
        if entry.is_folder() && !self.stays.has(&path) {
            return Ok(());
        }
        let link = match (entry.kind, changed) {
            (Kind::HardLink, Some(link)) => Some(in_workspace(link)),
            (Kind::HardLink, None) => Some(in_workspace(&entry.link_path()?)),
            _ => None,
        };
        self.seed.put(entry, &path, link.as_deref(), content)
    }
}
