//! The handle to one engine: how it is reached, and that it is the one that was meant.
//!
//! Not here: what a target asks of it.

use crate::error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use futures::TryStreamExt as _;
use rollback_core::{Effect, Error, Kind, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the engine listens if nothing says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long a connection waits for an answer. Longer than a container's grace may be: what bounds a call is its caller.
const TIMEOUT_SECONDS: u64 = 600;

/// One Docker engine, with the API version that both sides speak. Cheap to clone; connections are made as they are needed.
///
/// Rollbacks go wrong on the wrong machine: say which engine you mean ([`ConnectOptions::expecting`]), and any other one is
/// refused before it is touched. Targets go on comparing: see [which engine](crate#which-engine). Who may use the engine's
/// socket may do everything on its host; there are no finer permissions to ask for.
///
/// ```no_run
/// use rollback_docker::{ConnectOptions, Engine};
/// # async fn connect() -> rollback_core::Result<()> {
/// // As the docker command line would: DOCKER_HOST, DOCKER_CONTEXT, the current context, the local socket.
/// let engine = Engine::connect(ConnectOptions::new()).await?;
/// // A context by its name, and no other engine than prod-7.
/// let engine = Engine::connect(ConnectOptions::new().with_context("prod").expecting("prod-7")).await?;
/// println!("{} runs Docker {}", engine.name(), engine.server_version());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine {
    client: Docker,
    about: Arc<About>,
}

#[derive(Debug)]
struct About {
    id: String,
    name: String,
    version: String,
    api: String,
    host: String,
    context: Option<String>,
    cli: Option<Cli>,
    /// Where the docker configuration lies.
    config: PathBuf,
}

/// What makes the docker command line use the same engine: by address, because a context may be made to lead elsewhere while
/// a rollback is under way. An address may hold a password, so it is not shown.
struct Cli(Vec<String>);

impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cli(..)")
    }
}

/// How to reach an engine, and which one it has to be. The default is what the docker command line would take.
///
/// ```
/// use rollback_docker::ConnectOptions;
/// let options = ConnectOptions::new().with_host("unix:///run/user/1000/docker.sock").expecting_version("27.");
/// ```
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    host: Option<String>,
    context: Option<String>,
    config_dir: Option<PathBuf>,
    expected: Option<String>,
    version: Option<String>,
}

impl ConnectOptions {
    /// As the docker command line: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context of
    /// `DOCKER_CONFIG/config.json` (`~/.docker` by default), then `/var/run/docker.sock`.
    pub fn new() -> Self {
        Self::default()
    }
    /// This address: `unix:///…`, `tcp://host:port`, `ssh://user@host`. With `DOCKER_TLS_VERIFY` set, `tcp` is over TLS with
    /// the certificates in `DOCKER_CERT_PATH`; the authorities that this system trusts are taken too. `ssh` is the program of
    /// that name with its own configuration, which asks nothing: a host that is not known yet is added to the known ones,
    /// and one whose key has changed is refused. On that host `docker` must be in the path.
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
    /// This context of the docker configuration, with its certificates.
    pub fn with_context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }
    /// Where the docker configuration lies: contexts, and credentials of registries.
    pub fn with_config_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config_dir = Some(dir.into());
        self
    }
    /// No other engine than the one with this id or this name (`docker info` prints both). Hosts may share a name, and no two
    /// engines an id. Default: whichever answers.
    pub fn expecting(mut self, id_or_name: impl Into<String>) -> Self {
        self.expected = Some(id_or_name.into());
        self
    }
    /// No other version of the engine than one that begins so: `27.`. Default: any since Docker 19.03.
    pub fn expecting_version(mut self, prefix: impl Into<String>) -> Self {
        self.version = Some(prefix.into());
        self
    }

    fn config_dir(&self) -> PathBuf {
        let home = || env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from).join(".docker");
        let from_env = || env::var_os("DOCKER_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        self.config_dir.clone().or_else(from_env).unwrap_or_else(home)
    }
    /// Which address, and the certificates for it.
    fn endpoint(&self) -> Result<Endpoint> {
        let text = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        let dir = self.config_dir();
        let plain = |host: String| {
            let tls = (host.starts_with("tcp://") && text("DOCKER_TLS_VERIFY").is_some())
                .then(|| text("DOCKER_CERT_PATH").map_or_else(|| dir.clone(), PathBuf::from));
            Endpoint { host, context: None, tls }
        };
        if let Some(host) = &self.host {
            return Ok(plain(host.clone()));
        }
        if let Some(name) = &self.context {
            return context(&dir, name);
        }
        if let Some(host) = text("DOCKER_HOST") {
            return Ok(plain(host));
        }
        let current = || -> Result<Option<String>> {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Config {
                current_context: Option<String>,
            }
            let config: Option<Config> = json(&dir.join("config.json"))?;
            Ok(config.and_then(|c| c.current_context).filter(|c| !c.is_empty()))
        };
        match text("DOCKER_CONTEXT").map_or_else(current, |name| Ok(Some(name)))? {
            Some(name) => context(&dir, &name),
            None => Ok(plain(DEFAULT_HOST.into())),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Endpoint {
    host: String,
    context: Option<String>,
    /// The directory of ca.pem, cert.pem and key.pem.
    tls: Option<PathBuf>,
}

/// A file of the docker configuration; none if it is not there.
fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    let operation = || format!("read {}", path.display());
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::from_io(operation(), e).without_effect()),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::new(Kind::Invalid, operation())
                .with_message("it is not what docker writes")
                .with_source(e)
                .without_effect()
        }),
    }
}

/// A context lies under the hash of its name.
fn context(dir: &Path, name: &str) -> Result<Endpoint> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Option<At>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct At {
        host: Option<String>,
        #[serde(default, rename = "SkipTLSVerify")]
        skip_tls_verify: bool,
    }
    let refused =
        |kind, why: String| Error::new(kind, format!("use the context {name}")).with_message(why).without_effect();
    if name == "default" {
        return Ok(Endpoint { host: DEFAULT_HOST.into(), context: Some(name.into()), tls: None });
    }
    let hash = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let meta: Option<Meta> = json(&dir.join("contexts/meta").join(&hash).join("meta.json"))?;
    let Some(meta) = meta else {
        return Err(refused(Kind::NotFound, "there is no such context: docker context ls shows those that are".into()));
    };
    let Some(At { host: Some(host), skip_tls_verify }) = meta.endpoints.docker else {
        return Err(refused(Kind::Invalid, "it names no engine".into()));
    };
    if skip_tls_verify {
        let why = "it does not verify who it speaks to (SkipTLSVerify): make one that does";
        return Err(refused(Kind::Unsupported, why.into()));
    }
    let certificates = dir.join("contexts/tls").join(&hash).join("docker");
    Ok(Endpoint { host, context: Some(name.into()), tls: certificates.is_dir().then_some(certificates) })
}

impl Endpoint {
    /// What the docker command line is given to use it too.
    fn cli(&self, config_dir: &Path) -> Cli {
        let mut arguments =
            vec!["--config".to_string(), config_dir.display().to_string(), "--host".into(), self.host.clone()];
        if let Some(dir) = &self.tls {
            arguments.push("--tlsverify".into());
            for (option, file) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
                arguments.extend([option.into(), dir.join(file).display().to_string()]);
            }
        }
        Cli(arguments)
    }
    fn client(&self) -> Result<Docker> {
        let operation = format!("connect to {}", without_user(&self.host));
        let host = self.host.as_str();
        let made = match (&self.tls, host.split_once("://").map(|(scheme, _)| scheme)) {
            (Some(dir), Some("tcp" | "https")) => return over_tls(host, dir, operation),
            (None, Some("https")) => {
                let why = "there are no certificates for it: make a context with them, or set DOCKER_CERT_PATH";
                return Err(Error::new(Kind::Invalid, operation).with_message(why).without_effect());
            }
            (_, Some("unix")) => Docker::connect_with_unix(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION),
            (None, Some("tcp" | "http")) => Docker::connect_with_http(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION),
            (_, Some("ssh")) => return over_ssh(host, operation),
            _ => {
                let why = "this is no address of an engine: unix://, tcp:// or ssh://";
                return Err(Error::new(Kind::Unsupported, operation).with_message(why).without_effect());
            }
        };
        made.map_err(error::read(operation))
    }
}

#[cfg(feature = "tls")]
fn over_tls(host: &str, dir: &Path, operation: String) -> Result<Docker> {
    // rustls takes the one provider of cryptography that is built in, and panics where there are two: HTTPS of the core brings
    // another one. Which one the program itself has chosen stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    for file in ["key.pem", "cert.pem", "ca.pem"] {
        let path = dir.join(file);
        std::fs::metadata(&path).map_err(|e| Error::from_io(format!("read {}", path.display()), e).without_effect())?;
    }
    let [key, cert, ca] = ["key.pem", "cert.pem", "ca.pem"].map(|file| dir.join(file));
    Docker::connect_with_ssl(host, &key, &cert, &ca, TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        .map_err(error::read(operation))
}
#[cfg(not(feature = "tls"))]
fn over_tls(_: &str, _: &Path, operation: String) -> Result<Docker> {
    let why = "it wants TLS, which this build leaves out: build rollback-docker with its feature tls";
    Err(Error::new(Kind::Unsupported, operation).with_message(why).without_effect())
}

#[cfg(feature = "ssh")]
fn over_ssh(host: &str, operation: String) -> Result<Docker> {
    Docker::connect_with_ssh(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION, None).map_err(error::read(operation))
}
#[cfg(not(feature = "ssh"))]
fn over_ssh(_: &str, operation: String) -> Result<Docker> {
    let why = "it is over SSH, which this build leaves out: build rollback-docker with its feature ssh";
    Err(Error::new(Kind::Unsupported, operation).with_message(why).without_effect())
}

/// The engine reads credentials in the alphabet of URLs, and the client writes them in the other: a password with a `?` in the
/// wrong place would not be understood.
fn url_safe(mut request: BollardRequest) -> BollardRequest {
    const CREDENTIALS: &str = "x-registry-auth";
    let plain = request.headers().get(CREDENTIALS).and_then(|value| value.to_str().ok());
    if let Some(Ok(value)) = plain.map(|text| text.replace('+', "-").replace('/', "_").parse()) {
        request.headers_mut().insert(CREDENTIALS, value);
    }
    request
}

/// An address without user and password.
fn without_user(host: &str) -> String {
    match host.split_once("://") {
        Some((scheme, rest)) => {
            let (place, path) = rest.split_once('/').map_or((rest, None), |(place, path)| (place, Some(path)));
            let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
            path.map_or_else(|| format!("{scheme}://{place}"), |path| format!("{scheme}://{place}/{path}"))
        }
        None => host.into(),
    }
}

impl Engine {
    /// Connects, agrees on an API version, and asks which engine it is.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] (transient) if it does not answer; [`Kind::Denied`] if one side does not take the other's
    /// certificate or key, or the socket is not this user's; [`Kind::Invalid`] if it is not the one that was expected,
    /// or for a docker configuration that cannot be read;
    /// [`Kind::Unsupported`] for [Podman](crate#podman), an engine before Docker 19.03 (API 1.40), or a way to connect that
    /// this build leaves out; [`Kind::NotFound`] for a context that is not there. Nothing is written.
    ///
    /// # Cancel safety
    /// Nothing is left when it is dropped.
    ///
    /// ```no_run
    /// # use rollback_docker::{ConnectOptions, Engine};
    /// # async fn connect() -> rollback_core::Result<()> {
    /// let engine = Engine::connect(ConnectOptions::new().expecting("prod-7")).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let endpoint = options.endpoint()?;
        let client = endpoint.client()?;
        let config = options.config_dir();
        let cli = endpoint.cli(&config);
        let shown = without_user(&endpoint.host);
        let client = client.with_request_modifier(url_safe);
        let engine = Self::ask(client, shown, endpoint.context, Some(cli), config).await?;
        engine.is_expected(options.expected.as_deref(), options.version.as_deref())?;
        Ok(engine)
    }

    /// Uses a client of yours. The API version is negotiated here. Its own time limit should be longer than the grace of
    /// your containers. What it was told to modify of its requests is not done to those that read a service of a Swarm.
    ///
    /// # Errors
    /// As [`connect`](Engine::connect).
    ///
    /// ```no_run
    /// # use rollback_docker::Engine;
    /// # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::from_client(bollard::Docker::connect_with_local_defaults()?).await?;
    /// # Ok(()) }
    /// ```
    pub async fn from_client(client: Docker) -> Result<Self> {
        Self::ask(client, "a client of the caller's".into(), None, None, ConnectOptions::new().config_dir()).await
    }

    async fn ask(
        client: Docker,
        host: String,
        context: Option<String>,
        cli: Option<Cli>,
        config: PathBuf,
    ) -> Result<Self> {
        let operation = || format!("ask which engine answers at {host}");
        // Without this an engine older than the client answers "client version is too new".
        let client = client.negotiate_version().await.map_err(error::read(operation()))?;
        let version = client.version().await.map_err(error::read(operation()))?;
        let unsupported = |why: String| Error::new(Kind::Unsupported, operation()).with_message(why).without_effect();
        let podman = version.components.iter().flatten().find(|part| part.name.contains("Podman"));
        if let Some(podman) = podman {
            return Err(unsupported(format!(
                "it is Podman {}, which gives another id each time it is asked, so that no rollback could tell whether it is \
                 still at the right engine: name an engine of Docker's by DOCKER_HOST or a context",
                podman.version
            )));
        }
        let api = client.client_version().to_string();
        // 1.40 is Docker 19.03, from 2019.
        let number =
            |text: &str| text.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
        if number(&api).is_none_or(|n| n < (1, 40)) {
            return Err(unsupported(format!("it speaks API {api}, and 1.40 (Docker 19.03) is the least")));
        }
        let info = client.info().await.map_err(error::read(operation()))?;
        let id = info.id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| unsupported("it does not say its id".into()))?;
        let about = About {
            id,
            name: info.name.unwrap_or_default(),
            version: version.version.unwrap_or_default(),
            api,
            host,
            context,
            cli,
            config,
        };
        Ok(Self { client, about: Arc::new(about) })
    }

    /// It is not the one that is meant.
    fn another(&self, why: String) -> Error {
        let about = &self.about;
        let context = about.context.as_ref().map_or_else(String::new, |c| format!(" (context {c})"));
        Error::new(Kind::Invalid, format!("use the engine at {}{context}", about.host))
            .with_message(why)
            .without_effect()
    }

    fn is_expected(&self, who: Option<&str>, version: Option<&str>) -> Result<()> {
        let about = &self.about;
        let differs = |what: String| Err(self.another(what));
        if let Some(who) = who.filter(|who| *who != about.id && *who != about.name) {
            return differs(format!(
                "it is {} ({}), and {who} was meant: see DOCKER_HOST and the context",
                about.name, about.id
            ));
        }
        if let Some(prefix) = version.filter(|prefix| !about.version.starts_with(prefix)) {
            return differs(format!("it is of version {}, and {prefix} was meant", about.version));
        }
        Ok(())
    }

    /// Its id, which stays as long as its data directory.
    pub fn id(&self) -> &str {
        &self.about.id
    }
    /// The name of its host.
    pub fn name(&self) -> &str {
        &self.about.name
    }
    /// The version of the engine: `27.3.1`.
    pub fn server_version(&self) -> &str {
        &self.about.version
    }
    /// The version of the API that both sides speak: `1.41`.
    pub fn api_version(&self) -> &str {
        &self.about.api
    }
    /// Where it was reached, without user and password.
    pub fn host(&self) -> &str {
        &self.about.host
    }
    /// The context it was reached by, if it was one.
    pub fn context(&self) -> Option<&str> {
        self.about.context.as_deref()
    }
    /// The arguments that make the docker command line use this engine; none for a client of the caller's.
    pub(crate) fn cli(&self) -> Option<&[String]> {
        self.about.cli.as_ref().map(|cli| cli.0.as_slice())
    }
    /// Where the docker configuration lies.
    pub(crate) fn config_dir(&self) -> &Path {
        &self.about.config
    }
    pub(crate) fn client(&self) -> &Docker {
        &self.client
    }
    /// What the engine answers to a GET of its API, whole: the client drops the settings that it does not know, and what is
    /// written back must not have lost any. `path` is of letters that need no escape.
    pub(crate) async fn get(&self, path: String) -> std::result::Result<serde_json::Value, bollard::errors::Error> {
        // The client has no call that gives a body as it is but this one, whose path is replaced.
        const PLACE: &str = "/containers/rollback.none/export";
        let there = move |mut request: BollardRequest| {
            let uri = request.uri().to_string().replace(PLACE, &path);
            if let Ok(uri) = uri.parse() {
                *request.uri_mut() = uri;
            }
            url_safe(request)
        };
        let client = self.client.clone().with_request_modifier(there);
        let body: Vec<_> = client.export_container("rollback.none").try_collect().await?;
        Ok(serde_json::from_slice(&body.concat())?)
    }
    /// What an [`Identity`](rollback_core::Identity) gives as its scope.
    pub(crate) fn scope(&self) -> String {
        format!("docker:{}", self.about.id)
    }

    /// The error that another engine has come to listen at the same address; none while it is the one that was connected to.
    async fn replaced(&self) -> Result<Option<Error>> {
        let info = self.client.info().await.map_err(error::read("ask which engine it is"))?;
        let (id, name) = (info.id.unwrap_or_default(), info.name.unwrap_or_default());
        let About { id: meant, name: called, .. } = &*self.about;
        let why = || {
            format!(
                "it is {name} ({id}) now, and {called} ({meant}) was meant: see who listens there; nothing is asked of the other one"
            )
        };
        Ok((id != *meant).then(|| self.another(why())))
    }
    /// # Errors
    /// [`Kind::Invalid`], without effect, if another engine answers by now.
    pub(crate) async fn is_same(&self) -> Result<()> {
        self.replaced().await?.map_or(Ok(()), Err)
    }
    /// What is read counts only if the engine that was meant has answered. It is asked who it is afterwards: whoever has taken
    /// its place in between is found out.
    pub(crate) async fn reading<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let read = read.await;
        match (self.replaced().await, read) {
            (Ok(Some(another)), _) => Err(another),
            (Err(e), Ok(_)) => Err(e),
            (_, read) => read,
        }
    }
    /// Why a write failed, if it is that another engine answers: that one knows nothing of what it was asked.
    pub(crate) async fn explain(&self, e: Error) -> Error {
        match self.replaced().await {
            Ok(Some(another)) if e.effect() == Effect::Unknown => error::with_effect(another),
            Ok(Some(another)) => another,
            _ => e,
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("about", &self.about).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let hash_of = |name: &str| Sha256::digest(name).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let put = |name: &str, text: &str| {
            let at = dir.path().join("contexts/meta").join(hash_of(name));
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join("meta.json"), text).unwrap();
        };
        put("prod", r#"{"Name":"prod","Metadata":{},"Endpoints":{"docker":{"Host":"ssh://ops@prod-7"}}}"#);
        put("lax", r#"{"Name":"lax","Endpoints":{"docker":{"Host":"tcp://a:2376","SkipTLSVerify":true}}}"#);
        let options = || ConnectOptions::new().with_config_dir(dir.path());
        let at = options().with_context("prod").endpoint().unwrap();
        assert_eq!(at, Endpoint { host: "ssh://ops@prod-7".into(), context: Some("prod".into()), tls: None });
        assert_eq!(options().with_context("lax").endpoint().unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(options().with_context("none").endpoint().unwrap_err().kind(), Kind::NotFound);
        std::fs::create_dir_all(dir.path().join("contexts/tls").join(hash_of("prod")).join("docker")).unwrap();
        assert!(options().with_context("prod").endpoint().unwrap().tls.is_some());
    }

    #[test]
    fn addresses_that_are_none_are_refused_and_users_are_not_shown() {
        for host in ["here", "ftp://x", "https://x:1"] {
            let endpoint = Endpoint { host: host.into(), context: None, tls: None };
            assert!(matches!(endpoint.client().unwrap_err().kind(), Kind::Unsupported | Kind::Invalid), "{host}");
        }
        for (host, shown) in [
            ("ssh://ops:secret@prod-7:22", "ssh://prod-7:22"),
            ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
            ("tcp://a:2376/x@y", "tcp://a:2376/x@y"),
        ] {
            assert_eq!(without_user(host), shown);
        }
    }
}
