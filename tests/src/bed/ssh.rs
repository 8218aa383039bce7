//! A way into the Docker bed by SSH, as if it were another host.

use super::{
    docker::{Bed, said, wait_until},
    registry::Aside,
};
use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt as _, process::Command};

/// A server, and an `ssh` in the bed's `PATH` that knows these hosts: `bed-ok` lets in, `bed-stranger` takes another key, to
/// `bed-changed` another host answers than before, and at `bed-down` nobody answers.
#[derive(Debug)]
pub struct Ssh {
    bed: Bed,
    _dir: tempfile::TempDir,
    _process: Aside,
}

impl Ssh {
    /// Starts the server. There may be one at a time.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(bed: &Bed) -> Self {
        let dir = tempfile::Builder::new().prefix("ssh-").tempdir_in(bed.dir()).unwrap_or_else(|e| panic!("{e}"));
        let at = dir.path().display().to_string();
        for key in ["host", "user", "stranger"] {
            let mut made = Command::new("ssh-keygen");
            made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(key));
            said(made.output()).unwrap_or_else(|e| panic!("{e}"));
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|at| at.port());
        let port = port.unwrap_or_else(|e| panic!("{e}"));
        let public = |key: &str| fs::read_to_string(dir.path().join(format!("{key}.pub"))).unwrap_or_default();
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
        write(
            "server",
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            ),
        );
        write("known", format!("bed-ok {}bed-stranger {}", public("host"), public("host")));
        write("known-other", format!("bed-changed {}", public("stranger")));
        let host = |name: &str, port: u16, key: &str, known: &str| {
            format!(
                "Host {name}\n  HostName 127.0.0.1\n  HostKeyAlias {name}\n  Port {port}\n  User root\n  IdentityFile {at}/{key}\n  \
                 IdentitiesOnly yes\n  UserKnownHostsFile {at}/{known}\n"
            )
        };
        write(
            "client",
            host("bed-ok", port, "user", "known")
                + &host("bed-stranger", port, "stranger", "known")
                + &host("bed-changed", port, "user", "known-other")
                + &host("bed-down", 1, "user", "known"),
        );
        let program = bed.dir().join("bin/ssh");
        let made = fs::write(&program, format!("#!/bin/sh\nexec /usr/bin/ssh -F {at}/client \"$@\"\n"))
            .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)));
        made.unwrap_or_else(|e| panic!("{e}"));
        // On that host the engine is where docker looks for it.
        let run = format!(
            "mount -t tmpfs t /run && mkdir /run/sshd && ln -s {}/docker.sock /run/docker.sock && exec /usr/sbin/sshd -D -f {at}/server",
            bed.dir().display()
        );
        let process = Aside::start(&["unshare", "-m", "sh", "-c", &run]);
        wait_until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { bed: bed.clone(), _dir: dir, _process: process }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.bed.dir().join("bin/ssh"));
    }
}
