//! `smolfreeze fleet install`.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::{Error, Result};
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::install::{self, Place, Units};

use super::FleetFile;

/// Variables of who installs it that a run needs as well, and all of smolvm's own.
const VARIABLES: [&str; 9] = [
    "HOME",
    "PATH",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "SMOLFREEZE_SMOLVM",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
];
const OF_SMOLVM: &str = "SMOLVM_";
const OF_THE_HOST: &str = "/etc/systemd/system";

/// Write a service and a timer for systemd, which have the fleet run at its file's time; a night that the host slept through
/// is caught up.
///
/// Units of its own are written over, others are left alone. It starts nothing: the command for that is printed.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct InstallCommand {
    #[command(flatten)]
    file: FleetFile,
    /// Print what would be written.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// For this user's own systemd.
    #[arg(long)]
    user: bool,
    /// Write the units to this folder.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// Print a line for a crontab instead.
    #[arg(long, conflicts_with_all = ["kubernetes", "user", "into"])]
    cron: bool,
    /// Print a CronJob of Kubernetes instead, for this host.
    #[arg(long, conflicts_with_all = ["user", "into"])]
    kubernetes: bool,
    /// The image of that, which has smolfreeze and smolvm in it.
    #[arg(long, value_name = "NAME", requires = "kubernetes", default_value = "registry.example/smolfreeze:latest")]
    image: String,
}

impl InstallCommand {
    pub fn run(self) -> Result<ExitCode> {
        let path = self.file.path();
        let file = File::read(&path)?;
        let place = self.place(&file, &path)?;
        if self.cron {
            return crate::cli::print(&install::cron_line(&file, &place));
        }
        if self.kubernetes {
            let text = fs::read_to_string(&path).map_err(|error| failed("reading", &path, error))?;
            return crate::cli::print(&install::cron_job(&file, &place, &text, &self.image));
        }
        let units = install::units(&file, &place);
        let folder = self.folder()?;
        let paths = [(units.service.as_str(), "service"), (units.timer.as_str(), "timer")]
            .map(|(text, kind)| (folder.join(format!("{}.{kind}", units.name)), text));
        if self.dry_run {
            let shown = paths.map(|(path, text)| format!("# {}\n{text}", path.display()));
            return crate::cli::print(&shown.join("\n"));
        }
        // A service that keeps the rest of the disk from being written to can't make them itself.
        for folder in install::written(&file, &place) {
            fs::create_dir_all(&folder).map_err(|error| failed("making", &folder, error))?;
        }
        paths.iter().try_for_each(|(path, text)| write(path, text))?;
        let user = if self.user { "--user " } else { "" };
        let next = format!("systemctl {user}daemon-reload && systemctl {user}enable --now {}.timer", units.name);
        let [service, timer] = paths.map(|(path, _)| path.display().to_string());
        crate::cli::print(&format!("{service}\n{timer}\nto begin: {next}"))
    }

    fn folder(&self) -> Result<PathBuf> {
        match (&self.into, self.user) {
            (Some(folder), _) => Ok(folder.clone()),
            (None, false) => Ok(OF_THE_HOST.into()),
            (None, true) => crate::cli::xdg_folder("XDG_CONFIG_HOME", ".config")
                .and_then(|own| own.parent().map(|config| config.join("systemd/user")))
                .ok_or_else(|| Error::usage("finding the folder of units", "HOME", "it is no absolute path")),
        }
    }

    fn place(&self, file: &File, path: &Path) -> Result<Place> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| failed("finding", path, error));
        let executable = std::env::current_exe().map_err(|error| failed("finding", Path::new("smolfreeze"), error))?;
        let host = super::host(file)?;
        let is_needed = |name: &str| VARIABLES.contains(&name) || name.starts_with(OF_SMOLVM);
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut environment: Vec<_> = variables.filter(|(name, _)| is_needed(name)).collect();
        environment.sort();
        Ok(Place {
            executable,
            file: absolute(path)?,
            home: std::env::var_os("HOME").unwrap_or_else(|| OsStr::new("/root").to_owned()).into(),
            cache: host.known.as_ref().and_then(|known| known.parent()).map_or_else(PathBuf::new, Path::to_owned),
            state: host.state,
            host: host.name,
            environment,
            is_user: self.user,
        })
    }
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    let subject = format!("'{}'", path.display());
    Error::sink(format!("installing: {doing}"), subject, &error).because(error)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| !Units::is_ours(&there)) {
        let reason = "it is there, and was not written by this command";
        let error = Error::usage("installing", format_args!("'{}'", path.display()), reason);
        return Err(error.hint("move it away, or name another folder with --into"));
    }
    let put = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".smolfreeze-").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    put().map_err(|error| failed("writing", path, error))
}
