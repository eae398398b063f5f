//! smolfreeze freezes a root filesystem, while it is in use, into an OCI image: in one pass, in bounded memory.
//!
//! ```text
//! source ──bytes──▶ cut ──layer by layer──▶ pack ──whole layers──▶ sinks, several uploads at once
//!    ▲                                       │ diff_id ▸ known? ▸ compress ▸ digest ▸ gather
//!    └────────── memory: buffers return ─────┘
//! ```
//!
//! # Words
//! A *source* gives one tar stream. The *cut* decides where a *layer* ends. A *packer* turns a layer into a *blob*, named
//! by its *digest*; the layer's own name is its *diff_id*. A *gathered* layer is complete and waits for the *sinks*; a
//! *live* one is too large to wait and is sent while it is made. A *plan* is all choices of a freeze, a *budget* its
//! memory as a formula, a *snapshot* the result.
//!
//! # Where to read, in the order the data flows
//! 1. [`plan`] and [`freeze`](mod@freeze): the story, options to [`report::Snapshot`].
//! 2. [`source`]: a machine, a folder, a tar; `smolvm` runs smolvm, `place` is a folder for what a run needs only while it lives.
//! 3. [`stage`]: cut, digest, compress; pure.
//! 4. [`pipeline`]: what moves bytes: a layer becomes a blob, where bytes wait and how many may; it starts all threads.
//! 5. [`sink`]: registry, layout, artifact, one that smolvm packs; [`layout`]: what all who write a layout folder share.
//! 6. [`image`], [`stored`]: what is written around the layers, and reading it back; [`thaw`](mod@thaw): a machine of it.
//! 7. [`record`], [`state`]: what is remembered of freezes, and where.
//! 8. [`serve`]: a registry over a layout folder.
//! 9. [`fleet`]: every machine of a host, night by night: the file that says which, and what became of them.
//! 10. [`oci`], [`progress`], [`error`], [`stop`], [`exclude`]: data; [`text`]: how text of others is printed.
//!
//! # What is not here
//! No printing, no global state: all of that is the binary's. One file of configuration is read, a fleet's, and only what it
//! is given; a freeze, a thaw and the like are told everything by who calls them. No reading of tars beyond what a
//! cut has to know. No deltas: an image is always full, and layers that did not change are simply the same.
//!
//! # Use
//! ```no_run
//! # async fn example() -> smolfreeze::error::Result<()> {
//! use std::sync::Arc;
//! use smolfreeze::{freeze::freeze, plan::{FreezeOptions, Plan}, progress::Silent, stop::Stop};
//!
//! let stop = Stop::new();
//! let options = FreezeOptions::new("dir:/usr".parse()?, vec!["oci:./usr".parse()?]);
//! let plan = Plan::make(options, &stop).await?;
//! let snapshot = freeze(plan, Arc::new(Silent), stop).await?;
//! println!("{}", snapshot.summary());
//! # Ok(())
//! # }
//! ```

pub mod plan;

pub mod freeze;
pub mod report;

pub mod night;
mod place;
mod smolvm;
pub mod source;
pub mod stage;

pub mod pipeline;

pub mod layout;

pub mod sink;

pub mod serve;

pub mod image;
pub mod stored;
pub mod thaw;

pub mod record;
pub mod state;

pub mod fleet;

pub mod error;
pub mod exclude;
pub mod oci;
pub mod progress;
pub mod stop;
pub mod text;

/// The code in the page for embedders compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
pub struct EmbeddingPage;
