//! What is to be frozen, and where to: as a user writes it.

use std::path::{Path, PathBuf};

use super::layout_name::LayoutName;
use crate::error::{Error, Result};
use crate::sink::registry;
use crate::text;

/// What the names of artifacts end in.
const ARTIFACT_EXTENSION: &str = "smolmachine";
/// What a layout's image is called where nobody says so.
pub(crate) const DEFAULT_TAG: &str = "latest";

/// What is to be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// `dir:PATH`: a folder of this host.
    Directory(PathBuf),
    /// `tar:FILE`, or `tar:-` for standard input.
    Archive(PathBuf),
    /// `NAME`: a running smolvm machine.
    Machine(String),
}

impl std::fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Archive(path) => write!(f, "tar:{}", path.display()),
            Self::Machine(name) => f.write_str(name),
        }
    }
}

impl SourceSpec {
    /// The source under the one name that it has, from whatever folder and by whatever link it is looked at; none where it
    /// has no such name, as a pipe, or is not there. (Of a machine its own name, which another one may have later.)
    #[must_use]
    pub fn canonical(&self) -> Option<String> {
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        let named = |kind: &str, path: PathBuf| format!("{kind}:{}", text::name(path.as_os_str().as_encoded_bytes()));
        match self {
            Self::Directory(path) => real(path).map(|path| named("dir", path)),
            Self::Archive(path) if path.as_os_str() == "-" => None,
            Self::Archive(path) => real(path).filter(|path| path.is_file()).map(|path| named("tar", path)),
            Self::Machine(name) => Some(name.clone()),
        }
    }
}

impl std::str::FromStr for SourceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let missing = |what| Error::usage("reading the source", format_args!("'{text}'"), what);
        match text.split_once(':') {
            Some((_, "")) => Err(missing("nothing stands behind the colon")),
            Some(("dir", path)) => Ok(Self::Directory(path.into())),
            Some(("tar", path)) => Ok(Self::Archive(path.into())),
            None if is_machine_name(text) => Ok(Self::Machine(text.to_owned())),
            _ => Err(missing("a source is a machine's NAME, dir:PATH, tar:FILE or tar:-")),
        }
    }
}

/// smolvm takes letters, digits, `-`, `_` and `.`; a name that begins with a dash would be an option.
pub(crate) fn is_machine_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(allowed)
}

/// Where an image is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// `oci:DIR[:TAG]`: an OCI image layout folder.
    Layout {
        /// The folder.
        folder: PathBuf,
        /// The tag, `latest` by default.
        tag: String,
    },
    /// An image reference in a registry.
    Registry(String),
    /// A `.smolmachine` artifact at this path; see [`OutputSpec::artifact`].
    Artifact(PathBuf),
    /// An artifact that smolvm packs; see [`OutputSpec::packed`].
    Packed {
        /// Where the launcher goes; with none it is not kept.
        launcher: Option<PathBuf>,
        /// The `.smolmachine` file.
        sidecar: PathBuf,
    },
}

impl OutputSpec {
    /// Whether its name can be one; registries have a grammar for them.
    pub(crate) fn check_name(&self) -> Result<()> {
        match self {
            Self::Registry(reference) => registry::check_name(reference),
            Self::Layout { .. } | Self::Artifact(_) | Self::Packed { .. } => Ok(()),
        }
    }

    /// Where its layers are, whatever the image is called there. What an artifact keeps of layers comes from the last one,
    /// wherever that was.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Layout { folder, .. } => {
                format!("oci:{}", std::path::absolute(folder).as_ref().unwrap_or(folder).display())
            }
            Self::Registry(reference) => {
                let name = reference.rfind('/').map_or(0, |slash| slash + 1);
                let end = reference[name..].find([':', '@']).map_or(reference.len(), |end| name + end);
                reference[..end].to_owned()
            }
            Self::Artifact(_) | Self::Packed { .. } => "an artifact".to_owned(),
        }
    }

    /// An artifact, named as smolvm names what it packs: of its `-o PATH` the sidecar is `PATH.smolmachine`. A path that
    /// ends so is taken as it is.
    ///
    /// # Errors
    /// When the path is that of a folder.
    pub fn artifact(path: &Path) -> Result<Self> {
        refuse_folder(path)?;
        if is_sidecar(path) {
            return Ok(Self::Artifact(path.to_owned()));
        }
        Ok(Self::Artifact(sidecar_of(path)))
    }

    /// What `smolvm pack create -o PATH` makes: the launcher PATH and the sidecar `PATH.smolmachine`.
    ///
    /// # Errors
    /// When the path is that of a folder, or ends in `.smolmachine`, which smolvm refuses.
    pub fn packed(path: &Path) -> Result<Self> {
        refuse_folder(path)?;
        if is_sidecar(path) {
            let reason =
                "smolvm names the sidecar itself, after the launcher, and takes no PATH that ends in .smolmachine";
            let hint = format!("give the launcher: --pack {}", shell(&path.with_extension("")));
            return Err(Error::usage("reading --pack", format_args!("'{}'", path.display()), reason).hint(hint));
        }
        Ok(Self::Packed { launcher: Some(path.to_owned()), sidecar: sidecar_of(path) })
    }

    /// An artifact becomes one that smolvm packs, at the same place and without a launcher.
    pub(super) fn leave_to_smolvm(&mut self) {
        if let Self::Artifact(sidecar) = self {
            *self = Self::Packed { launcher: None, sidecar: std::mem::take(sidecar) };
        }
    }

    /// An artifact, whoever packs it.
    pub(crate) fn is_artifact(&self) -> bool {
        matches!(self, Self::Artifact(_) | Self::Packed { .. })
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed { .. })
    }
}

fn refuse_folder(path: &Path) -> Result<()> {
    let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder && path.file_name().is_some() {
        return Ok(());
    }
    let hint = format!("name a file, as in --pack {}", shell(&path.join("NAME.smolmachine")));
    Err(Error::usage("reading --pack", format_args!("'{}'", path.display()), "it is a folder").hint(hint))
}

/// A path to be pasted.
fn shell(path: &Path) -> String {
    text::shell(path.as_os_str().as_encoded_bytes())
}

fn is_sidecar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == ARTIFACT_EXTENSION)
}

fn sidecar_of(launcher: &Path) -> PathBuf {
    let mut name = launcher.as_os_str().to_owned();
    name.push(".");
    name.push(ARTIFACT_EXTENSION);
    name.into()
}

impl std::fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout { folder, tag } => write!(f, "oci:{}:{tag}", folder.display()),
            Self::Registry(reference) => f.write_str(reference),
            Self::Artifact(path) => path.display().fmt(f),
            Self::Packed { sidecar, .. } => write!(f, "{} (packed by smolvm)", sidecar.display()),
        }
    }
}

impl std::str::FromStr for OutputSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(layout) = LayoutName::parse(text) else {
            registry::check_form(text)?;
            return Ok(Self::Registry(text.to_owned()));
        };
        let LayoutName { folder, tag, digest } = layout?;
        if digest.is_some() {
            let reason = "an image is written under a tag, not a digest";
            return Err(
                Error::usage("reading --to", text::quoted(text.as_bytes()), reason).hint("leave out the digest")
            );
        }
        Ok(Self::Layout { folder, tag: tag.unwrap_or_else(|| DEFAULT_TAG.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_outputs_parse() {
        assert_eq!("dir:/usr".parse::<SourceSpec>().unwrap(), SourceSpec::Directory("/usr".into()));
        assert_eq!("tar:-".parse::<SourceSpec>().unwrap(), SourceSpec::Archive("-".into()));
        assert!("dir:".parse::<SourceSpec>().is_err());
        let layout = |folder: &str, tag: &str| OutputSpec::Layout { folder: folder.into(), tag: tag.to_owned() };
        assert_eq!("oci:./usr".parse::<OutputSpec>().unwrap(), layout("./usr", "latest"));
        assert_eq!("oci:./new:team/app:v2".parse::<OutputSpec>().unwrap(), layout("./new", "team/app:v2"));
        let digest = format!("oci:./new:v1@sha256:{}", "1".repeat(64));
        for bad in ["oci:", "dev", &digest] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_artifact_is_named_as_smolvm_names_its_sidecars() {
        let folder = tempfile::tempdir().unwrap();
        let named = |name: &str| OutputSpec::artifact(&folder.path().join(name)).map(|output| output.to_string());
        for (name, artifact) in [("dev", "dev.smolmachine"), ("v1.2", "v1.2.smolmachine")] {
            let artifact = folder.path().join(artifact).display().to_string();
            assert_eq!(named(name).unwrap(), artifact);
            assert_eq!(OutputSpec::artifact(Path::new(&artifact)).unwrap().to_string(), artifact);
        }
        for bad in ["", "absent/"] {
            assert!(named(bad).unwrap_err().to_string().contains("NAME.smolmachine"), "{bad}");
        }
        assert!(OutputSpec::artifact(Path::new("..")).is_err());
        let OutputSpec::Packed { launcher, sidecar } = OutputSpec::packed(Path::new("v1.2")).unwrap() else { panic!() };
        assert_eq!((launcher.unwrap(), sidecar), ("v1.2".into(), "v1.2.smolmachine".into()));
        let refused = OutputSpec::packed(Path::new("a/dev.smolmachine")).unwrap_err().to_string();
        assert!(refused.contains("--pack a/dev"), "{refused}");
    }
}
