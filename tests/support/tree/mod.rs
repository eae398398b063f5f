//! Trees that nobody listed: grown from a seed, told entry by entry by other means than the engine's, and compared.
//!
//! ```text
//! themes::grow(folder, theme, random) ▸ dress(folder) ▸ Inventory::of_folder / of_layers ▸ differences
//! ```
//!
//! Every step is relative to an open folder, so a path may be longer than the kernel takes, and a name any bytes.

pub mod compare;
pub mod dress;
pub mod folder;
pub mod inventory;
pub mod layers;
pub mod themes;
