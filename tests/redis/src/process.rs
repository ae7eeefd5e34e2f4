//! A process that ends with the test process, however that ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts the program and kills it when the standard input ends, which the test process holds open.
const GUARD: &str =
    r#""$@" >/dev/null & echo $!; exec 2>/dev/null; read -r _; kill -KILL $!; wait $!"#;

/// A guarded process. It is killed when the value is dropped.
pub(crate) struct Guarded {
    guard: Child,
    pid: u32,
}

impl Guarded {
    pub(crate) fn start(program: &str, arguments: &[String]) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut pid = String::new();
        let output = guard.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut pid).unwrap();
        let pid = pid.trim().parse().expect("the guard prints the id");
        Self { guard, pid }
    }

    /// Sends a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &self.pid.to_string()])
            .status();
        assert!(kill.unwrap().success());
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The end of its input lets the guard kill the process.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
