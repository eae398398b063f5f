//! A machine's namespaces: one process holds them, everything else joins; the mounts are laid out as smolvm lays them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process};

use crate::faults;
use crate::state::{Failure, Machine, State};

/// Lays out the mounts of an image or a bare machine and becomes the holder. Runs in the new namespaces, on the host's
/// tools: $1 the stand-in, $2 the machine's folder, $3 its rootfs, $4 image or bare, $5 bytes for /var/tmp, then volumes.
const SET_UP: &str = r#"
set -eu
self=$1 folder=$2 rootfs=$3 kind=$4 var_tmp=$5; shift 5
cd "$folder"
mkdir -p mnt/storage mnt/overlay
mount -t ext4 -o loop storage.ext4 mnt/storage
disk=$PWD/mnt/storage
if [ "$kind" = image ]; then top=$disk/overlays/persistent-1; else mount -t ext4 -o loop overlay.ext4 mnt/overlay; top=$PWD/mnt/overlay; fi
mkdir -p "$top/upper" "$top/work" "$top/merged" "$disk/workspace" "$disk/layers/sha256-of-something"
echo "a layer" > "$disk/layers/sha256-of-something/file"
mount -t overlay -o "lowerdir=$rootfs,upperdir=$top/upper,workdir=$top/work$OVERLAY" overlay "$top/merged"
root=$top/merged
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/var/tmp" "$root/storage"
if [ -L "$root/workspace" ]; then :; elif [ "$kind" = image ]; then mkdir -p "$root/workspace"; else ln -s /storage/workspace "$root/workspace"; fi
chmod 1777 "$root/tmp" "$root/var/tmp"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
mount -t tmpfs -o mode=755 run "$root/run"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
	IFS=: read -r name major minor <<END
$node
END
	mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$root/dev/fd"; ln -s /proc/self/fd/1 "$root/dev/stdout"
mkdir -p "$root/dev/shm" "$root/dev/net" "$root/run/smolvm"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
: > "$root/run/smolvm/init"; mount --bind "$self" "$root/run/smolvm/init"
if [ "$kind" = image ]; then
	mkdir -p "$top/tmp"; chmod 1777 "$top/tmp"; mount --bind "$top/tmp" "$root/tmp"
	mount --bind "$disk/workspace" "$root/workspace"
else
	mkdir -p "$root/oldroot"; mount --bind "$rootfs" "$root/oldroot"; mkdir -p mnt/none
	[ -d "$root/oldroot/mnt/overlay" ] && mount --bind "$PWD/mnt/overlay" "$root/oldroot/mnt/overlay"
	: > "$root/.smolvm-ready.1"
fi
if [ -e workspace-seed.tar ] && [ ! -e "$disk/workspace/.smolvm-workspace-seeded" ]; then
	tar --delay-directory-restore --numeric-owner --xattrs '--xattrs-include=*' -xpf workspace-seed.tar -C "$disk/workspace"
fi
: > "$disk/workspace/.smolvm-workspace-seeded"
for volume; do
	mkdir -p "$disk/volumes$volume" "$root$volume"; mount --bind "$disk/volumes$volume" "$root$volume"
done
[ "$var_tmp" = 0 ] || mount -t tmpfs -o "mode=1777,size=$var_tmp" small "$root/var/tmp"
mount --rbind "$disk" "$root/storage"
exec "$self" __hold "$root"
"#;

/// Bytes of a machine's disks; they are sparse files.
const DISK_BYTES: u64 = 24 << 30;

/// `machine start`.
pub(crate) fn start(state: &State, machine: &Machine) -> Result<(), Failure> {
    if state.holder(&machine.name).is_some() {
        return Ok(());
    }
    if let Some(millis) = faults::take(state, "start-slow")? {
        std::thread::sleep(Duration::from_millis(millis));
    }
    if faults::take(state, "start-fail")?.is_some() {
        return Err(Failure::agent(
            "start machine: agent operation failed: monitor agent: Error: agent operation failed: open /dev/kvm \
             (boot process exited (code 1) before the agent was ready)",
        ));
    }
    let folder = state.folder(&machine.name);
    for disk in ["storage.ext4", "overlay.ext4"] {
        make_disk(&folder.join(disk))?;
    }
    let _ = std::fs::remove_file(folder.join("holder"));
    let log = std::fs::File::create(folder.join("holder.log"))?;
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "--",
        "sh",
        "-c",
        SET_UP,
        "sh",
    ]);
    unshare.arg(std::env::current_exe()?).arg(&folder).arg(&machine.rootfs);
    unshare.arg(if machine.image.is_some() { "image" } else { "bare" });
    unshare.arg(machine.var_tmp_bytes.unwrap_or(0).to_string()).args(&machine.volumes);
    let more = if machine.overlay.is_empty() { String::new() } else { format!(",{}", machine.overlay) };
    unshare.env("OVERLAY", more);
    unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut unshare = std::os::unix::process::CommandExt::process_group(&mut unshare, 0).spawn()?;
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) && unshare.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(10));
        let pid = std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        let comm = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let root = std::fs::read_link(format!("/proc/{pid}/root")).unwrap_or_default();
        if comm.contains("__hold") && root != Path::new("/") {
            std::fs::write(folder.join("holder"), pid)?;
            return Ok(());
        }
    }
    let _ = unshare.kill();
    Err(Failure::new("SMOLVM_ERROR", format!("stand-in: {}", std::fs::read_to_string(folder.join("holder.log"))?)))
}

fn make_disk(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    std::fs::File::create(path)?.set_len(DISK_BYTES)?;
    let lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let made =
        Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", lazy]).arg(path).status()?;
    if made.success() { Ok(()) } else { Err(Failure::new("STORAGE_ERROR", "stand-in: mke2fs failed")) }
}

/// `machine stop`: the pid namespace dies with its first process, and the mounts with the last.
pub(crate) fn stop(state: &State, machine: &Machine) -> Result<(), Failure> {
    let Some(pid) = state.holder(&machine.name) else { return Ok(()) };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::KILL).map_err(std::io::Error::from)?;
    }
    let began = Instant::now();
    while state.holder(&machine.name).is_some() && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The first process of a machine: goes to its root, and buries what is orphaned.
pub(crate) fn hold(root: &Path) -> Result<(), Failure> {
    rustix::process::chroot(root).map_err(std::io::Error::from)?;
    rustix::process::chdir("/").map_err(std::io::Error::from)?;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(200));
    }
}
