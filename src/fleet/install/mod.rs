//! What has a fleet run each night: units of systemd, a line for cron, a CronJob of Kubernetes. Texts only; the binary writes
//! them.

mod kubernetes;
mod systemd;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::file::File;
use crate::text;

pub use kubernetes::cron_job;
pub use systemd::{Units, units};

/// Where things are on this host.
#[derive(Debug, Clone)]
pub struct Place {
    /// This program.
    pub executable: PathBuf,
    /// The fleet's file.
    pub file: PathBuf,
    /// The home folder of who runs it.
    pub home: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// The cache folder.
    pub cache: PathBuf,
    /// This host's name.
    pub host: String,
    /// Variables that the run needs and that nobody sets for it: `HOME`, `PATH` and those of the XDG folders.
    pub environment: Vec<(String, String)>,
    /// For a user's own systemd, not the host's.
    pub is_user: bool,
}

/// The folders that a run writes to. What is in a name behind its first placeholder is made in them.
#[must_use]
pub fn written(file: &File, place: &Place) -> Vec<PathBuf> {
    let mut folders = BTreeSet::from([place.state.clone(), place.cache.clone()]);
    for destination in file.destinations.values() {
        let path = match (&destination.pack, destination.to.as_deref().and_then(|to| to.strip_prefix("oci:"))) {
            (Some(pack), _) => pack,
            (None, Some(layout)) => layout,
            (None, None) => continue,
        };
        folders.extend(fixed_folder(path));
    }
    folders.extend(file.metrics.file.as_ref().and_then(|path| path.parent()).map(Path::to_owned));
    let absolute = folders.into_iter().filter(|folder| folder.is_absolute() && folder != Path::new("/"));
    absolute.collect()
}

/// The folders of smolvm's, which a run writes to where they are there.
fn of_smolvm(file: &File, place: &Place) -> Vec<PathBuf> {
    let said = |name: &str| place.environment.iter().find(|(variable, _)| variable == name).map(|(_, value)| value);
    let usual = [
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_CONFIG_HOME", ".config"),
    ]
    .map(|(variable, below)| {
        let base = said(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        base.unwrap_or_else(|| place.home.join(below)).join("smolvm")
    });
    usual.into_iter().chain(file.smolvm.state_dir.clone()).collect()
}

/// The last folder in front of the first placeholder, and of a layout's tag.
fn fixed_folder(name: &str) -> Option<PathBuf> {
    let fixed = name.split('{').next().unwrap_or_default();
    let (folder, last) = fixed.rsplit_once('/')?;
    // Without a placeholder in it, what is behind the last slash is the layout itself.
    let is_whole = fixed.len() == name.len() || last.contains(':');
    let last = last.split(':').next().unwrap_or_default();
    let folder = if is_whole && !last.is_empty() { format!("{folder}/{last}") } else { folder.to_owned() };
    (!folder.is_empty()).then(|| folder.into())
}

/// A line of a user's crontab. Who has nights that a host slept through needs a timer, or anacron.
#[must_use]
pub fn cron_line(file: &File, place: &Place) -> String {
    let at = file.schedule.at.0;
    let words = [
        place.executable.as_path(),
        Path::new("fleet"),
        Path::new("run"),
        Path::new("--quiet"),
        Path::new("--file"),
        &place.file,
    ];
    let words = words.map(|word| text::shell(word.as_os_str().as_encoded_bytes()));
    // cron takes a '%' for the end of a line.
    format!("{} {} * * * {}\n", at.minute(), at.hour(), words.join(" ").replace('%', r"\%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn place() -> Place {
        Place {
            executable: "/opt/a b/smolfreeze".into(),
            file: "/etc/smolfreeze/100%.toml".into(),
            home: "/root".into(),
            state: "/root/.local/state/smolfreeze".into(),
            cache: "/root/.cache/smolfreeze".into(),
            host: "rack-7".to_owned(),
            environment: vec![("HOME".to_owned(), "/root".to_owned()), ("PATH".to_owned(), "/usr/bin:/a b".to_owned())],
            is_user: false,
        }
    }

    pub(super) fn file() -> File {
        let text = r#"
            jitter = "20m"
            [schedule]
            at = "03:05"
            [destinations.a]
            to = "registry.example/{machine}:{date}"
            [destinations.b]
            to = "oci:/srv/images/{machine}:{date}"
            [destinations.c]
            pack = "/srv/artifacts/x-{machine}.smolmachine"
            [destinations.d]
            to = "oci:/srv/all:{machine}-{date}"
            [defaults]
            to = ["a", "b", "c", "d"]
            [metrics]
            file = "/var/lib/node_exporter/smolfreeze.prom"
            [[policies]]
        "#;
        File::parse(text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    }

    #[test]
    fn a_run_writes_to_its_destinations() {
        let expected = [
            "/root/.cache/smolfreeze",
            "/root/.local/state/smolfreeze",
            "/srv/all",
            "/srv/artifacts",
            "/srv/images",
            "/var/lib/node_exporter",
        ];
        assert_eq!(written(&file(), &place()), expected.map(PathBuf::from));
    }

    #[test]
    fn smolvms_folders_are_where_the_environment_has_them() {
        let mut place = place();
        place.environment.extend([
            ("XDG_CACHE_HOME".to_owned(), "/var/cache/root".to_owned()),
            ("XDG_DATA_HOME".to_owned(), "not/absolute".to_owned()),
        ]);
        let expected = [
            "/var/cache/root/smolvm",
            "/root/.local/share/smolvm",
            "/root/.local/state/smolvm",
            "/root/.config/smolvm",
        ];
        assert_eq!(of_smolvm(&file(), &place), expected.map(PathBuf::from));
        let pod = cron_job(&file(), &place, "", "image");
        assert!(
            pod.contains("{name: XDG_CACHE_HOME, value: \"/var/cache/root\"}") && !pod.contains("name: PATH"),
            "{pod}"
        );
    }

    #[test]
    fn cron_is_given_words_that_a_shell_takes() {
        let expected = "5 3 * * * '/opt/a b/smolfreeze' fleet run --quiet --file /etc/smolfreeze/100\\%.toml\n";
        assert_eq!(cron_line(&file(), &place()), expected);
    }
}
