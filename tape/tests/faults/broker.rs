//! A broker of these tests' own, behind a proxy: it may be stopped, killed and cut off without harm to anybody else's story.

use crate::proxy::Proxy;
use crate::run;
use crate::running::until;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The broker, and the way to it.
pub struct Own {
    dir: PathBuf,
    pub proxy: Proxy,
}

/// The one own broker of this process, for one story at a time; `None` where tests have no Kafka.
pub fn own() -> Option<MutexGuard<'static, Own>> {
    static OWN: OnceLock<Mutex<Own>> = OnceLock::new();
    run::broker()?;
    // A story that failed may have left anything behind: the next one begins with what it can heal.
    let own =
        OWN.get_or_init(|| Mutex::new(Own::start("log.retention.check.interval.ms=500"))).lock().unwrap_or_else(PoisonError::into_inner);
    own.heal();
    Some(own)
}

/// Another broker, with a setting of its own; `None` where tests have no Kafka.
pub fn with(setting: &str) -> Option<Own> {
    run::broker()?;
    Some(Own::start(setting))
}

impl Own {
    fn start(setting: &str) -> Own {
        let proxy = Proxy::start();
        let dir = tempfile::Builder::new().prefix("tape-faults-").tempdir().expect("temp dir").keep();
        let said = Command::new(script())
            .arg("start")
            .arg(&dir)
            .arg(std::process::id().to_string())
            .env("KAFKA_ADVERTISED", proxy.address.to_string())
            .env("KAFKA_EXTRA", setting)
            .output()
            .expect("the script runs");
        proxy.lead_to(address(&said));
        Own { dir, proxy }
    }

    /// What clients are given: the proxy's address.
    pub fn brokers(&self) -> String {
        self.proxy.address.to_string()
    }

    fn heal(&self) {
        self.proxy.set(crate::proxy::Weather::Fair);
        if alive(self.pid()) {
            self.signal("CONT");
        } else {
            self.again();
        }
    }

    fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join("pid")).expect("a broker was started here");
        text.trim().parse().expect("a process id")
    }

    /// Sends the broker's process a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill is everywhere");
        assert!(sent.success(), "no broker to signal");
    }

    /// Ends the broker by a signal, and waits until it is gone.
    pub fn end(&self, signal: &str) {
        let pid = self.pid();
        self.signal(signal);
        until("the end of the broker", || !alive(pid));
    }

    /// Starts it again with another value of a setting, which stands behind the first one.
    pub fn restart_with(&self, setting: &str) {
        self.end("TERM");
        let path = self.dir.join("server.properties");
        let before = std::fs::read_to_string(&path).expect("the script wrote it");
        std::fs::write(&path, format!("{before}\n{setting}\n")).expect("written");
        self.again();
    }

    /// Starts it again, with its data and on its port.
    pub fn again(&self) {
        let said = Command::new(script()).arg("again").arg(&self.dir).output().expect("the script runs");
        address(&said);
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka.sh")
}

fn address(said: &std::process::Output) -> std::net::SocketAddr {
    let text = String::from_utf8_lossy(&said.stdout);
    let address = text.lines().find_map(|line| line.strip_prefix("BROKERS="));
    address.unwrap_or_else(|| panic!("{}", run::text(said))).parse().expect("an address")
}

/// True while the process runs; one that has ended and that nobody has asked about yet does not.
fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}
