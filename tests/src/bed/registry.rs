//! A private registry in the network of the Docker bed.

use super::docker::{Bed, Project, said, wait_until};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

/// A process that ends with this value, and with this process however that ends.
#[derive(Debug)]
pub struct Aside(Child);

impl Aside {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(argv: &[&str]) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|e| panic!("{argv:?}: {e}")))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A registry that lets in one user only, by name and password.
#[derive(Debug)]
pub struct Registry {
    _dir: tempfile::TempDir,
    host: String,
    user: String,
    password: String,
    _process: Aside,
}

impl Registry {
    /// Starts one in the network of the bed.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(bed: &Bed, user: &str, password: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir_in(bed.dir()).unwrap_or_else(|e| panic!("{e}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|at| at.port());
        let host = format!("127.0.0.1:{}", port.unwrap_or_else(|e| panic!("{e}")));
        // It takes nothing but bcrypt.
        let hash = "import crypt, sys; print(crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
        let hash = said(Command::new("python3").args(["-Wignore", "-c", hash, password]).output());
        let hash = hash.unwrap_or_else(|e| panic!("{e}"));
        let at = dir.path().display().to_string();
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
        write("users", format!("{user}:{hash}\n"));
        write(
            "config.yml",
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '{host}'}}\n\
                 auth: {{htpasswd: {{realm: bed, path: {at}/users}}}}\n"
            ),
        );
        let process = Aside::start(&["docker-registry", "serve", &format!("{at}/config.yml")]);
        wait_until("the registry listens", || std::net::TcpStream::connect(&host).is_ok());
        Self { _dir: dir, host, user: user.into(), password: password.into(), _process: process }
    }
    /// Its address.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// A docker configuration of one who logged in with this password.
    pub fn auths(&self, password: &str) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let auth = STANDARD.encode(format!("{}:{password}", self.user));
        serde_json::json!({ "auths": { &self.host: { "auth": auth } } }).to_string()
    }
    /// Puts a credential helper where helpers are looked for, and gives its name.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn helper(&self, project: &Project) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let name = project.name.clone();
        // `docker.sh x` has it in PATH.
        let path = project.bed.dir().join("bin").join(format!("docker-credential-{name}"));
        let says = serde_json::json!({ "ServerURL": self.host, "Username": self.user, "Secret": self.password });
        let script = format!(
            "#!/bin/sh\nread -r server\n[ \"$server\" = {} ] || {{ echo credentials not found; exit 1; }}\necho '{says}'\n",
            self.host
        );
        let made =
            fs::write(&path, script).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        made.unwrap_or_else(|e| panic!("{e}"));
        name
    }
    /// How an image of a project is called here.
    pub fn name(&self, project: &Project, tag: &str) -> String {
        format!("{}/{}", self.host, project.tag(tag))
    }
    /// Brings an image of a project here, logged in by a configuration, and gives its name.
    ///
    /// # Panics
    /// If it is refused.
    pub fn push(&self, project: &Project, tag: &str, config: &Path) -> String {
        let name = self.name(project, tag);
        project.bed.docker(&["tag", &project.tag(tag), &name]);
        project.bed.docker(&["--config", &config.display().to_string(), "push", "-q", &name]);
        name
    }
}
