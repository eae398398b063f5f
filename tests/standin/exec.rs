//! `machine exec`: a command in a machine's namespaces, with smolvm's caps on what it prints.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::ExecArguments;
use crate::faults;
use crate::state::{Failure, Machine, State};

/// Bytes of stdout, and of stderr, that smolvm carries for one exec.
const OUTPUT_BYTES_MAX: usize = 11_534_336;

pub(crate) fn run(state: &State, arguments: &ExecArguments) -> Result<u8, Failure> {
    let machine = state.machine(&arguments.name)?;
    let holder = state.running(&arguments.name)?;
    faults::connection(state)?;
    if faults::take(state, "exec-refuse")?.is_some() {
        return Err(Failure::agent("connect: Connection refused (os error 111)"));
    }
    if faults::take(state, "exec-hang")?.is_some() {
        std::thread::sleep(Duration::from_secs(3600));
    }
    if machine.image.is_none() && arguments.user.is_some() {
        return Err(Failure::new(
            "CONFIG_ERROR",
            "--user needs an image machine; a bare VM runs every command as root",
        ));
    }
    let mut command = enter(&machine, holder, arguments)?;
    if arguments.detach {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        print(format!("{}\n", child.id()).as_bytes(), &mut std::io::stdout());
        return Ok(0);
    }
    command.stdin(if arguments.interactive { Stdio::inherit() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut guard = Guard::over(&child)?;
    if let Some(millis) = faults::take(state, "exec-kill")? {
        std::thread::sleep(Duration::from_millis(millis));
        kill_group(child.id());
    }
    let result = carry(&machine, &mut child, arguments);
    guard.release();
    result
}

/// nsenter into the machine, as the right user, in the right folder, with the image's environment.
fn enter(machine: &Machine, holder: u32, arguments: &ExecArguments) -> Result<Command, Failure> {
    let (mut uid, mut gid) = (machine.uid, machine.gid);
    if machine.image.is_none() {
        (uid, gid) = (0, 0);
    }
    if let Some(user) = &arguments.user {
        let (name, group) = user.split_once(':').unwrap_or((user, user));
        let number = |word: &str| word.parse().map_err(|_| Failure::agent(format!("exec: unable to find user {word}")));
        (uid, gid) = (number(name)?, number(group)?);
    }
    let mut command = Command::new("/usr/bin/nsenter");
    command.args(["-t", &holder.to_string(), "-m", "-p", "-r", "-S", &uid.to_string(), "-G", &gid.to_string()]);
    command.arg(format!("-W{}", arguments.workdir.as_ref().unwrap_or(&machine.workdir)));
    command.arg("--").args(&arguments.command).env_clear().process_group(0);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", if uid == 0 { "/root" } else { "/home" });
    for pair in machine.env.iter().chain(&arguments.env) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(key, value);
    }
    Ok(command)
}

/// Carries output until the command ends, with the caps and codes of the kind of exec that was asked for.
fn carry(machine: &Machine, child: &mut Child, arguments: &ExecArguments) -> Result<u8, Failure> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else { return Ok(1) };
    let (at_once, capped) = (arguments.stream || arguments.interactive, !arguments.interactive);
    let out = std::thread::spawn(move || drain(stdout, at_once.then(std::io::stdout), capped));
    let err = std::thread::spawn(move || drain(stderr, at_once.then(std::io::stderr), capped));
    let limit = arguments.timeout.as_deref().map(seconds).transpose()?;
    let began = Instant::now();
    let mut timed_out = false;
    // Without a limit there is nothing to look at now and then.
    if let Some(limit) = limit {
        while !(out.is_finished() && err.is_finished() && child.try_wait()?.is_some()) {
            if !timed_out && began.elapsed() > limit {
                timed_out = true;
                kill_group(child.id());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let status = child.wait()?;
    let code = if timed_out { 124 } else { exit_code(status) };
    if code == 127 && String::from_utf8_lossy(&err.kept).starts_with("nsenter: failed to execute") {
        let name = arguments.command.first().map_or("", String::as_str);
        let mut failure =
            Failure::agent(format!("exec: failed to spawn {name}: No such file or directory (os error 2)"));
        failure.exit = if machine.image.is_some() { 255 } else { 1 };
        return Err(failure);
    }
    if out.cut || err.cut {
        if arguments.stream {
            print(
                format!(
                    "error: streaming output exceeded {OUTPUT_BYTES_MAX} byte cap; exec terminated (output truncated)\n"
                )
                .as_bytes(),
                &mut std::io::stderr(),
            );
            return Ok(1);
        }
        if machine.image.is_none() {
            return Err(Failure::agent(format!(
                "exec: command output exceeded {OUTPUT_BYTES_MAX} bytes and was truncated. Redirect it to a file and copy that."
            )));
        }
    }
    print(&out.kept, &mut std::io::stdout());
    print(&err.kept, &mut std::io::stderr());
    Ok(code)
}

/// What a command printed, as far as it is carried.
#[derive(Default)]
struct Drained {
    kept: Vec<u8>,
    cut: bool,
}

fn drain<W: Write>(mut from: impl Read, mut at_once: Option<W>, capped: bool) -> Drained {
    let mut drained = Drained::default();
    let (mut carried, mut buffer) = (0, vec![0; 64 << 10]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let room = if capped { OUTPUT_BYTES_MAX - carried } else { count };
        let taken = count.min(room);
        drained.cut |= taken < count;
        carried += taken;
        match &mut at_once {
            Some(to) => print(&buffer[..taken], to),
            None => drained.kept.extend_from_slice(&buffer[..taken]),
        }
    }
    drained
}

fn print(bytes: &[u8], to: &mut impl Write) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(255)
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    let number = text.trim_end_matches('s').parse();
    number.map(Duration::from_secs).map_err(|_| Failure::new("CONFIG_ERROR", format!("invalid duration '{text}'")))
}

fn kill_group(pid: u32) {
    if let Some(group) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Takes the guest's command along when this process dies, however it dies: a shell that waits for a word on a pipe,
/// and hears the pipe close.
struct Guard(Child);

impl Guard {
    fn over(child: &Child) -> Result<Self, Failure> {
        // With `--` before the group, dash's kill understands nothing.
        let script = "read -r word || kill -KILL -\"$1\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "sh", &child.id().to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self(shell.stderr(Stdio::null()).process_group(0).spawn()?))
    }

    fn release(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"over\n");
        }
        let _ = self.0.wait();
    }
}
