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

    /// The process that it has begun: of a command that answers SQL the one that does so.
    pub fn child(&self) -> u32 {
        let mut child = None;
        until("the process that it begins", || {
            child = child_of(self.pid());
            child.is_some()
        });
        child.expect("just seen")
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

/// A process whose parent this is, and that has not ended.
fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux has it").filter_map(Result::ok);
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|process| stat(*process).is_some_and(|(state, its)| its == parent && state != 'Z'))
}

/// Has it ended? One that nobody has waited for is in the list of processes still.
pub fn is_gone(process: u32) -> bool {
    stat(process).is_none_or(|(state, _)| state == 'Z')
}

/// State and parent of a process: what comes after its name, which stands in parentheses.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Bytes of memory that a process holds now.
pub fn resident(process: u32) -> u64 {
    memory(process, "VmRSS:")
}

/// Most bytes of memory that a process has held.
pub fn peak(process: u32) -> u64 {
    memory(process, "VmHWM:")
}

fn memory(process: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
