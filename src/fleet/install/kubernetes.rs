//! A CronJob for a host whose machines are smolvm's.

use std::fmt::Write as _;
use std::path::Path;

use super::{Place, of_smolvm, written};
use crate::fleet::file::File;

/// After its deadline a run tidies up; then the pod is ended.
const GRACE_SECONDS: u64 = 1800;
/// A night that was missed is caught up within so long.
const CATCH_UP_SECONDS: u64 = 20 * 3600;
/// Bytes of a CronJob's name.
const NAME_BYTES_MAX: usize = 52;
/// Where the file is in the pod.
const FILE: &str = "/etc/smolfreeze/fleet.toml";

/// The manifest: the file as a ConfigMap, and a CronJob that is bound to this host, since its machines are. `image` has
/// smolfreeze and smolvm in it.
#[must_use]
pub fn cron_job(file: &File, place: &Place, text: &str, image: &str) -> String {
    let name = quoted(&name(file, place));
    let at = file.schedule.at.0;
    let deadline = file.deadline.map_or_else(String::new, |deadline| {
        format!("      activeDeadlineSeconds: {}\n", deadline.0.as_secs() + GRACE_SECONDS)
    });
    let (mut mounts, mut volumes) = (String::new(), String::new());
    let folders = written(file, place).into_iter().map(|folder| (folder, "DirectoryOrCreate"));
    let of_smolvm = of_smolvm(file, place).into_iter().map(|folder| (folder, "DirectoryOrCreate"));
    // Where folders are that are mounted as this host has them; what else its environment says is not the image's.
    let mut variables = format!("                - {{name: HOME, value: {}}}\n", quoted_path(&place.home));
    for (name, value) in place.environment.iter().filter(|(name, _)| name.starts_with("XDG_")) {
        let _ = writeln!(variables, "                - {{name: {name}, value: {}}}", quoted(value));
    }
    let sockets = std::iter::once(("/dev/kvm".into(), "CharDevice"));
    for (number, (path, kind)) in folders.chain(of_smolvm).chain(sockets).enumerate() {
        let path = quoted_path(&path);
        let _ = writeln!(mounts, "                - {{name: host-{number}, mountPath: {path}}}");
        let _ = writeln!(volumes, "            - {{name: host-{number}, hostPath: {{path: {path}, type: {kind}}}}}");
    }
    format!(
        r#"# Written by 'smolfreeze fleet install --kubernetes'. Machines belong to a host, so each host has a CronJob of its own.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
data:
  fleet.toml: {text}
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: "{minute} {hour} * * *"
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {CATCH_UP_SECONDS}
  jobTemplate:
    spec:
      backoffLimit: 0
{deadline}      template:
        spec:
          restartPolicy: Never
          nodeSelector:
            kubernetes.io/hostname: {host}
          containers:
            - name: smolfreeze
              image: {image}
              args: [fleet, run, --quiet, --file, {FILE}]
              env:
{variables}              securityContext:
                privileged: true
              volumeMounts:
                - {{name: file, mountPath: /etc/smolfreeze}}
{mounts}          volumes:
            - {{name: file, configMap: {{name: {name}}}}}
{volumes}"#,
        text = quoted(text),
        minute = at.minute(),
        hour = at.hour(),
        host = quoted(&place.host),
        image = quoted(image),
    )
}

/// Each host's is another one; the names of its pods have eleven characters more, and 63 at most.
fn name(file: &File, place: &Place) -> String {
    let name = format!("smolfreeze-{}-{}", file.name, place.host).to_lowercase().replace(['_', '.'], "-");
    let name: String = name.chars().take(NAME_BYTES_MAX).collect();
    name.trim_end_matches('-').to_owned()
}

/// A text as YAML has it: JSON is a part of it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
