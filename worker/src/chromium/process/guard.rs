//! The guard: a small process between the worker and one browser. It makes sure that no process and
//! no file of the browser outlives the worker, however the worker ends.
//!
//! ```text
//! worker ──stdin pipe──> browser-guard ──> browser-exec, which becomes Chromium
//! ```
//!
//! Both stages are this same program, started again with a hidden first argument. The code here
//! runs before tokio, in processes with one thread, with plain blocking calls.
//!
//! - The worker ends in any way, `kill -9` included: its end of the pipe closes and the guard reads
//!   the end of file. The guard kills the browser and all its descendants, reaps them, removes the
//!   profile folder and exits.
//! - The guard is killed: the kernel sends Chromium the parent-death signal. That signal is tied to
//!   the *thread* that forked; the guard has only one thread, so it means the guard itself.
//!   Chromium's own processes end when they lose their browser, and the worker removes the folder.
//!
//! The guard's standard output is the browser's end of the debugging pipe. The guard passes it on
//! and keeps no copy; the second stage moves it to descriptors 3 and 4, for Chromium alone.
//!
//! Terminals and service managers signal whole process groups. So the guard has its own group and
//! blocks the termination signals: it ends only when its input ends.
//!
//! The browser's command line is built in `flags`.

use std::ffi::OsString;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, chown, dup2_stdout, getpid, getppid, setgid, setgroups, setuid};

use super::uids::{ClaimError, Uids};
use super::{cgroup, proc};

/// The first argument of the guard stage: `browser-guard PROFILE UIDS CHROMIUM ARG..`.
pub(crate) const GUARD: &str = "browser-guard";
/// The first argument of the stage that becomes Chromium:
/// `browser-exec GUARD_PID UID CHROMIUM ARG..`. The id is empty if the user stays.
const EXEC: &str = "browser-exec";

/// The first argument of the stage that limits a renderer's memory:
/// `renderer-limit BYTES PID`.
pub(crate) const LIMIT: &str = "renderer-limit";

/// The descriptor from which Chromium reads commands.
const COMMANDS: RawFd = 3;
/// The descriptor to which Chromium writes replies and events.
const REPLIES: RawFd = 4;

/// The environment variable with the path of the browser's cgroup, if it has one.
pub(crate) const CGROUP: &str = "BROWSER_CGROUP";

/// Why a guard failed. The text is for the worker's log.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("only the worker starts this stage; do not start it by hand")]
    Usage,
    #[error(transparent)]
    Uid(#[from] ClaimError),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("{0}: {1}")]
    System(&'static str, Errno),
    #[error("the guard ended before the browser was started")]
    Orphaned,
}

/// Runs the guard stage that this process was started for; `None` if it was started for none.
///
/// Call it first in `main`: before tokio and before any other thread.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let stage = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = match stage.to_str()? {
        GUARD => guard(&arguments),
        EXEC => become_browser(&arguments),
        LIMIT => limit_renderer(&arguments),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|error| {
        report(&error.to_string());
        ExitCode::FAILURE
    }))
}

/// Writes to standard error, which the worker reads and logs.
fn report(message: &str) {
    use io::Write;
    // Fails when the worker has closed its end; the message is dropped then.
    _ = writeln!(io::stderr(), "{GUARD}: {message}");
}

/// The guard stage: creates the profile folder, starts the browser, waits for the end, cleans up.
fn guard(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [profile, uids, command @ ..] = arguments else {
        return Err(GuardError::Usage);
    };
    let uids: Uids = uids
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or(GuardError::Usage)?;
    let signals = block_signals().map_err(|e| GuardError::System("blocking signals", e))?;
    prctl::set_child_subreaper(true).map_err(|e| GuardError::System("becoming a subreaper", e))?;
    // Held until this process ends: until then the browser's processes may live.
    let claim = uids.claim()?;
    let uid = claim.as_ref().map(|claim| claim.uid);
    let profile = Profile::create(Path::new(profile), uid)?;

    let browser = start(uid, command, profile.path)?;
    // Only the browser may hold the pipe: its end tells the worker that the browser has ended.
    discard_stdout().map_err(|e| GuardError::Io("closing the pipe", e))?;
    let ended = wait_for_end(browser, &signals);
    kill_all(browser);
    drop(profile);
    if let Some(group) = env::var_os(CGROUP) {
        cgroup::remove(Path::new(&group));
    }
    match ended.map_err(|e| GuardError::System("waiting", e))? {
        End::Input => Ok(ExitCode::SUCCESS),
        End::Browser(status) => {
            report(&format!("the browser ended by itself: {status}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The private folder of one browser. Dropping it removes the folder.
struct Profile<'a> {
    path: &'a Path,
}

impl<'a> Profile<'a> {
    /// Fails when the path exists, so that files of other processes are never used or removed.
    fn create(path: &'a Path, owner: Option<u32>) -> Result<Self, GuardError> {
        let failed = |e| GuardError::Io("creating the profile folder", e);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let profile = Self { path };
        if let Some(uid) = owner {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
            chown(path, Some(user), Some(group)).map_err(|e| failed(e.into()))?;
        }
        Ok(profile)
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        // Follows no symbolic links that the browser may have left there.
        if let Err(error) = fs::remove_dir_all(self.path) {
            report(&format!("removing {}: {error}", self.path.display()));
        }
    }
}

/// Starts the next stage as the leader of its own process group.
fn start(uid: Option<u32>, command: &[OsString], profile: &Path) -> Result<Pid, GuardError> {
    let child = Command::new("/proc/self/exe")
        .arg(EXEC)
        .arg(getpid().to_string())
        .arg(uid.map(|uid| uid.to_string()).unwrap_or_default())
        .args(command)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env("HOME", profile)
        .env("TMPDIR", profile)
        .envs(env::var_os(CGROUP).map(|group| (CGROUP, group)))
        // The child must not inherit the guard's input: its end is the signal to stop.
        .stdin(Stdio::null())
        // The browser's end of the debugging pipe.
        .stdout(Stdio::inherit())
        .process_group(0)
        .spawn()
        .map_err(|e| GuardError::Io("starting the browser", e))?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Moves the debugging pipe from the standard output to the descriptors that Chromium uses.
fn pass_pipe() -> io::Result<()> {
    let pipe = io::stdout();
    for number in [COMMANDS, REPLIES] {
        // The worker's parent may have left it open.
        match nix::unistd::close(number) {
            Ok(()) | Err(Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
        // The first free descriptor from there on, without close-on-exec.
        let passed = fcntl(&pipe, FcntlArg::F_DUPFD(number))?;
        if passed != number {
            return Err(Errno::EBUSY.into());
        }
    }
    discard_stdout()
}

/// Replaces the standard output by nothing.
fn discard_stdout() -> io::Result<()> {
    let nothing = fs::OpenOptions::new().write(true).open("/dev/null")?;
    Ok(dup2_stdout(nothing)?)
}

/// What ended a guard's wait.
enum End {
    /// The worker closed the pipe, or ended.
    Input,
    /// The browser ended, with this status.
    Browser(String),
}

/// Blocks the signals that would end the guard, and SIGCHLD, which is read from the descriptor.
/// `Command` gives children an empty mask again.
fn block_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits for the end of the input or of the browser, whichever comes first.
fn wait_for_end(browser: Pid, signals: &SignalFd) -> nix::Result<End> {
    let stdin = io::stdin();
    loop {
        let mut events = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut events, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if events[0].any() == Some(true) && nix::unistd::read(&stdin, &mut [0; 64])? == 0 {
            return Ok(End::Input);
        }
        while signals.read_signal()?.is_some() {}
        if let Some(status) = reap_finished(browser)? {
            return Ok(End::Browser(status));
        }
    }
}

/// Reaps every child that has ended; returns the browser's status if it is among them.
fn reap_finished(browser: Pid) -> nix::Result<Option<String>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(status) if status.pid() == Some(browser) => return Ok(Some(format!("{status:?}"))),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(Some("no child is left".to_owned())),
            Err(error) => return Err(error),
        }
    }
}

/// Kills and reaps until no child is left. The guard is a subreaper: when a process ends, its
/// children become the guard's, and the next round kills them.
fn kill_all(browser: Pid) {
    // Fails when the group is already empty.
    _ = killpg(browser, Signal::SIGKILL);
    loop {
        for child in proc::children_of(getpid()) {
            _ = kill(child, Signal::SIGKILL);
        }
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Switches to this user and the group with the same number, and to no other group.
fn give_up_root(uid: u32) -> Result<(), GuardError> {
    let failed = |e| GuardError::System("giving up root", e);
    setgroups(&[]).map_err(failed)?;
    setgid(Gid::from_raw(uid)).map_err(failed)?;
    setuid(Uid::from_raw(uid)).map_err(failed)
}

/// The limit stage: limits a renderer's memory as the renderer's own user, since root may lack
/// the capability.
fn limit_renderer(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [bytes, pid] = arguments else {
        return Err(GuardError::Usage);
    };
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    let (Some(bytes), Some(pid)) = (number(bytes), number(pid)) else {
        return Err(GuardError::Usage);
    };
    let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| GuardError::Usage)?);
    let uid = proc::real_uid(pid).filter(|uid| *uid != 0);
    give_up_root(uid.ok_or(GuardError::Usage)?)?;
    proc::limit_data(pid, bytes).map_err(|e| GuardError::Io("limiting a renderer's memory", e))?;
    Ok(ExitCode::SUCCESS)
}

/// The second stage: joins the browser's cgroup, forbids core dumps, gives up root, asks for the
/// parent-death signal, moves the debugging pipe to where Chromium expects it, and becomes
/// Chromium.
fn become_browser(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [guard, uid, chromium, arguments @ ..] = arguments else {
        return Err(GuardError::Usage);
    };
    if let Some(group) = env::var_os(CGROUP) {
        cgroup::join(Path::new(&group)).map_err(|e| GuardError::Io("joining the cgroup", e))?;
    }
    // A core dump would hold the state of contracts, in a file or with another program.
    proc::forbid_core_dumps().map_err(|e| GuardError::Io("forbidding core dumps", e))?;
    if !uid.is_empty() {
        let uid = uid.to_str().and_then(|text| text.parse().ok());
        give_up_root(uid.ok_or(GuardError::Usage)?)?;
    }
    // Only after the change of user, which would clear it.
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| GuardError::System("asking for the parent-death signal", e))?;
    // If the guard ended before the line above, no signal comes.
    if guard.to_str() != Some(&getppid().to_string()) {
        return Err(GuardError::Orphaned);
    }
    pass_pipe().map_err(|e| GuardError::Io("passing the pipe on", e))?;
    let error = Command::new(chromium)
        .args(arguments)
        .current_dir("/")
        .env_remove(CGROUP)
        .exec();
    Err(GuardError::Io("starting Chromium", error))
}
