//! The guard: a small process between the worker and one browser, so that nothing of the browser
//! outlives the worker, however the worker ends.
//!
//! ```text
//! worker ──stdin pipe──> browser-guard ──> browser-exec, which becomes Chromium
//! ```
//!
//! Both stages are this same program, started again with a hidden first argument. All that is
//! here runs before tokio, in processes with one thread, with plain blocking calls.
//!
//! - The worker ends in any way, `kill -9` included: its end of the pipe closes, the guard reads
//!   the end of file, kills the browser and everything that came of it, reaps all of it, removes
//!   the profile folder and exits.
//! - The guard is killed: the kernel sends Chromium the parent-death signal. That signal is tied to
//!   the *thread* that forked; the guard has only the one, so it means the guard itself. Chromium's
//!   own processes end when they lose their browser, and the worker removes the folder.
//!
//! Terminal and service managers signal whole groups: the guard lives in a group of its own and
//! blocks the signals that ask for an end, because its end is the end of its input.
//!
//! What the browser is told on its command line does not belong here: that is `launch`.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, User, chown, geteuid, getpid, getppid, setgid, setgroups, setuid};

use super::{cgroup, proc};

/// The first argument that makes this program a guard: `browser-guard PROFILE USER CHROMIUM ARG..`.
pub(crate) const GUARD: &str = "browser-guard";
/// The first argument of the stage that becomes Chromium: `browser-exec GUARD_PID USER CHROMIUM ARG..`.
const EXEC: &str = "browser-exec";

/// The first argument of the stage that bounds a renderer's memory: `renderer-limit USER BYTES PID`.
pub(crate) const LIMIT: &str = "renderer-limit";

/// The variable that names the cgroup of the browser, where there is one.
pub(crate) const CGROUP: &str = "BROWSER_CGROUP";

/// Why a guard did not do its work. The text is for the worker's log.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("this is started by the worker, not by hand")]
    Usage,
    #[error("the user {0:?} does not exist; name another one in CHROMIUM_USER")]
    NoUser(String),
    #[error("Chromium must not run as root; name an unprivileged user in CHROMIUM_USER")]
    Root,
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("{0}: {1}")]
    System(&'static str, Errno),
    #[error("the guard ended before the browser was started")]
    Orphaned,
}

/// Runs the guard when this process was started as one; `None` means that it was not.
///
/// To be called first thing in `main`: before tokio, before any other thread.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let stage = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = match stage.to_str()? {
        GUARD => guard(&arguments),
        EXEC => become_browser(&arguments),
        LIMIT => limit(&arguments),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|error| {
        report(&error.to_string());
        ExitCode::FAILURE
    }))
}

/// Standard error is the guard's only voice: the worker reads it, and logs it.
fn report(message: &str) {
    use io::Write;
    // When nobody reads any more there is nobody to tell.
    _ = writeln!(io::stderr(), "{GUARD}: {message}");
}

/// From the making of the profile folder to its removal.
fn guard(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [profile, user, command @ ..] = arguments else {
        return Err(GuardError::Usage);
    };
    let signals = block_signals().map_err(|e| GuardError::System("blocking signals", e))?;
    prctl::set_child_subreaper(true).map_err(|e| GuardError::System("becoming a reaper", e))?;
    let profile = Profile::create(Path::new(profile), unprivileged(user)?.as_ref())?;

    let browser = start(user, command, profile.path)?;
    let ended = wait_for_end(browser, &signals);
    kill_all(browser);
    drop(profile);
    if let Some(group) = env::var_os(CGROUP) {
        cgroup::remove(Path::new(&group));
    }
    match ended.map_err(|e| GuardError::System("waiting", e))? {
        End::Asked => Ok(ExitCode::SUCCESS),
        End::Browser(status) => {
            report(&format!("the browser ended by itself: {status}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The private folder of one browser; it goes when this is dropped.
struct Profile<'a> {
    path: &'a Path,
}

impl<'a> Profile<'a> {
    /// Fails when the path exists: nothing that somebody else put there is ever used or removed.
    fn create(path: &'a Path, owner: Option<&User>) -> Result<Self, GuardError> {
        let failed = |e| GuardError::Io("making the profile folder", e);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let profile = Self { path };
        if let Some(owner) = owner {
            chown(path, Some(owner.uid), Some(owner.gid)).map_err(|e| failed(e.into()))?;
        }
        Ok(profile)
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        // Follows no links, whatever the browser left there.
        if let Err(error) = fs::remove_dir_all(self.path) {
            report(&format!("removing {}: {error}", self.path.display()));
        }
    }
}

/// Starts the next stage as the leader of its own process group.
fn start(user: &OsStr, command: &[OsString], profile: &Path) -> Result<Pid, GuardError> {
    let child = Command::new("/proc/self/exe")
        .arg(EXEC)
        .arg(getpid().to_string())
        .arg(user)
        .args(command)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env("HOME", profile)
        .env("TMPDIR", profile)
        .envs(env::var_os(CGROUP).map(|group| (CGROUP, group)))
        // Above all not the guard's own input, whose end is the signal to stop.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| GuardError::Io("starting the browser", e))?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// What ended a guard's wait.
enum End {
    /// The worker closed the pipe, or is no more.
    Asked,
    /// The browser is no more.
    Browser(String),
}

/// Blocks the signals that would end the guard, and SIGCHLD to read it from the descriptor.
/// Children start with an empty mask again: `Command` sees to that.
fn block_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits for the end of the input or of the browser, whichever is first.
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
            return Ok(End::Asked);
        }
        while signals.read_signal()?.is_some() {}
        if let Some(status) = reap_finished(browser)? {
            return Ok(End::Browser(status));
        }
    }
}

/// Takes leave of every child that has ended; tells how the browser did when it is among them.
fn reap_finished(browser: Pid) -> nix::Result<Option<String>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(status) if status.pid() == Some(browser) => return Ok(Some(format!("{status:?}"))),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(Some("it is gone".to_owned())),
            Err(error) => return Err(error),
        }
    }
}

/// Kills and reaps until no child is left. The guard is a subreaper, so the children of whatever
/// dies become its own, to be killed in the next round.
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

/// Whether browsers can run as `user`; the error says why not.
pub fn check_user(user: &str) -> Result<(), String> {
    unprivileged(OsStr::new(user))
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Whom Chromium runs as: somebody else when this is root, otherwise whoever started it.
fn unprivileged(user: &OsStr) -> Result<Option<User>, GuardError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let name = user.to_string_lossy();
    match User::from_name(&name).map_err(|e| GuardError::System("looking up the user", e))? {
        Some(user) if user.uid.is_root() => Err(GuardError::Root),
        Some(user) => Ok(Some(user)),
        None => Err(GuardError::NoUser(name.into_owned())),
    }
}

/// Becomes whom Chromium runs as, if this is root.
fn give_up_root(user: &OsStr) -> Result<(), GuardError> {
    if let Some(user) = unprivileged(user)? {
        let failed = |e| GuardError::System("giving up root", e);
        setgroups(&[]).map_err(failed)?;
        setgid(user.gid).map_err(failed)?;
        setuid(user.uid).map_err(failed)?;
    }
    Ok(())
}

/// Bounds a renderer's memory, as the user that it runs as: root may not always do that.
fn limit(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [user, bytes, pid] = arguments else {
        return Err(GuardError::Usage);
    };
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    let (Some(bytes), Some(pid)) = (number(bytes), number(pid)) else {
        return Err(GuardError::Usage);
    };
    let pid = i32::try_from(pid).map_err(|_| GuardError::Usage)?;
    give_up_root(user)?;
    proc::limit_data(Pid::from_raw(pid), bytes)
        .map_err(|e| GuardError::Io("bounding a renderer's memory", e))?;
    Ok(ExitCode::SUCCESS)
}

/// The second stage: joins the browser's cgroup, gives up root, asks to die with the guard, becomes Chromium.
fn become_browser(arguments: &[OsString]) -> Result<ExitCode, GuardError> {
    let [guard, user, chromium, arguments @ ..] = arguments else {
        return Err(GuardError::Usage);
    };
    if let Some(group) = env::var_os(CGROUP) {
        cgroup::join(Path::new(&group)).map_err(|e| GuardError::Io("joining the cgroup", e))?;
    }
    give_up_root(user)?;
    // After the change of user, which would clear it again.
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| GuardError::System("asking for the parent-death signal", e))?;
    // A guard that died before this line sends no signal any more.
    if guard.to_str() != Some(&getppid().to_string()) {
        return Err(GuardError::Orphaned);
    }
    let error = Command::new(chromium)
        .args(arguments)
        .current_dir("/")
        .env_remove(CGROUP)
        .exec();
    Err(GuardError::Io("starting Chromium", error))
}
