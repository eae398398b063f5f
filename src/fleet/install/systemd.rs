//! A service and a timer.

use std::fmt::Write as _;
use std::path::Path;

use super::{Place, of_smolvm, written};
use crate::fleet::file::File;

/// The first line of what is ours to write over.
const MARK: &str =
    "# Written by 'smolfreeze fleet install', which writes over it; changes belong into a drop-in (systemctl edit).";

/// What the host's own systemd keeps from the run: all that neither a freeze nor smolvm needs. smolvm starts machines by
/// /dev/kvm, unpacks their layers with owners, modes and device nodes, and speaks to them by sockets.
const SANDBOX: &str = "\
# A command of the file's that writes elsewhere needs a ReadWritePaths= more.
ProtectSystem=strict
ProtectHome=read-only
PrivateMounts=yes
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_SETFCAP CAP_SETGID CAP_SETUID
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/vhost-vsock rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_VSOCK
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=user mnt pid net
RestrictRealtime=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
UMask=0077
";

/// What a user's own systemd can keep from it.
const USER_SANDBOX: &str = "\
NoNewPrivileges=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077
";

/// A service and its timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// Without `.service` and `.timer`.
    pub name: String,
    /// The service's text.
    pub service: String,
    /// The timer's.
    pub timer: String,
}

/// The units of a fleet.
#[must_use]
pub fn units(file: &File, place: &Place) -> Units {
    let name = format!("smolfreeze-{}", file.name);
    Units { service: service(file, place), timer: timer(file, &name), name }
}

impl Units {
    /// Whether a text is one of ours, so that it may be written over.
    #[must_use]
    pub fn is_ours(text: &str) -> bool {
        text.starts_with(MARK)
    }
}

fn service(file: &File, place: &Place) -> String {
    let words = [path(&place.executable), "fleet run --now --progress none --file".to_owned(), path(&place.file)];
    let mut text = format!(
        "{MARK}
[Unit]
Description=Nightly freezes of smolvm machines (fleet {})
Documentation=man:smolfreeze(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={}
# The run is told alone; it ends its own children, and tidies up in the machines.
KillMode=mixed
TimeoutStopSec=10min
Nice=10
CPUWeight=50
IOWeight=50
",
        file.name,
        words.join(" ")
    );
    if place.is_user {
        // A user's services have no network-online.target to wait for.
        text = text.replace("Wants=network-online.target\nAfter=network-online.target\n", "");
    }
    for (name, value) in &place.environment {
        let _ = writeln!(text, "Environment={}", word(&format!("{name}={value}")));
    }
    text += if place.is_user { USER_SANDBOX } else { SANDBOX };
    if !place.is_user {
        // One that is missing costs what is written to it, not the whole run.
        for folder in written(file, place).into_iter().chain(of_smolvm(file, place)) {
            let _ = writeln!(text, "ReadWritePaths={}", optional(&folder));
        }
    }
    text
}

fn timer(file: &File, name: &str) -> String {
    format!(
        "{MARK}
[Unit]
Description=Nightly freezes of smolvm machines (fleet {})

[Timer]
Unit={name}.service
OnCalendar=*-*-* {}:00
# A night that this host slept through is caught up, once.
Persistent=yes
RandomizedDelaySec={}
FixedRandomDelay=yes
AccuracySec=1min

[Install]
WantedBy=timers.target
",
        file.name,
        file.schedule.at,
        file.jitter.0.as_secs()
    )
}

fn path(path: &Path) -> String {
    word(&path.to_string_lossy()).replace('$', "$$")
}

/// One that may be missing.
fn optional(folder: &Path) -> String {
    let word = path(folder);
    word.strip_prefix('"').map_or_else(|| format!("-{word}"), |rest| format!("\"-{rest}"))
}

/// A word as systemd.syntax(7) has it, in which `%` begins a specifier.
fn word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-+./:,@%=$".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted += "\\n",
            char => quoted.push(char),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, place};
    use super::*;

    #[test]
    fn the_timer_says_when_and_how_evenly() {
        let units = units(&file(), &place());
        assert_eq!(units.name, "smolfreeze-fleet");
        for line in
            ["OnCalendar=*-*-* 03:05:00", "RandomizedDelaySec=1200", "Persistent=yes", "Unit=smolfreeze-fleet.service"]
        {
            assert!(units.timer.lines().any(|found| found == line), "{line} in\n{}", units.timer);
        }
        assert!(Units::is_ours(&units.timer) && Units::is_ours(&units.service) && !Units::is_ours("[Unit]\n"));
    }

    #[test]
    fn the_service_has_its_words_quoted_and_its_folders_open() {
        let service = units(&file(), &place()).service;
        for line in [
            r#"ExecStart="/opt/a b/smolfreeze" fleet run --now --progress none --file /etc/smolfreeze/100%%.toml"#,
            r#"Environment="PATH=/usr/bin:/a b""#,
            "Environment=HOME=/root",
            "ReadWritePaths=-/srv/images",
            "ReadWritePaths=-/root/.cache/smolvm",
        ] {
            assert!(service.lines().any(|found| found == line), "{line} in\n{service}");
        }
        let user = units(&file(), &Place { is_user: true, ..place() }).service;
        assert!(!user.contains("ReadWritePaths") && !user.contains("network-online"), "{user}");
    }
}
