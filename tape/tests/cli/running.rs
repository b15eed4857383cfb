//! A command that is still running: signals reach exactly this process, every wait has an end.

use crate::run::Home;
use std::fs::File;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// The longest that anything here may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A started command; what it says goes to a file in its home.
pub struct Running {
    child: Child,
    said: std::path::PathBuf,
}

/// Starts `tape ARGS --home H`.
pub fn start(home: &Home, args: &[&str]) -> Running {
    start_as(home, args[0], args, &[])
}

/// The same under a name of its own, where several run at a time, and with variables of its environment.
pub fn start_as(home: &Home, name: &str, args: &[&str], env: &[(&str, &str)]) -> Running {
    let said = home.path(&format!("said-{name}"));
    let out = File::create(&said).expect("the home can be written");
    let err = out.try_clone().expect("a second handle");
    let child = home.command(args).envs(env.iter().copied()).stdout(out).stderr(err).spawn().expect("the binary starts");
    Running { child, said }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.said).expect("its output")).into_owned()
    }

    /// True when it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// `kill -9`; false when it had ended by itself before.
    pub fn kill(&mut self) -> bool {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child").code().is_none()
    }

    /// Sends a signal by name.
    pub fn send(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill is everywhere");
        assert!(sent.success(), "no process to signal: {}", self.said());
    }

    /// Sends a signal by name and waits for the end.
    pub fn signal(mut self, name: &str) -> (ExitStatus, String) {
        self.send(name);
        let status = self.end();
        (status, self.said())
    }

    /// Waits for the end.
    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("the end of process {}", self.pid()), || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nobody behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
