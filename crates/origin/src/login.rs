//! What this host logs in with at one registry: a password of its own, or whatever Docker knows by now.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::Engine as _;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{Credentials, DEFAULT_REGISTRY, Secret};

/// How Docker's files and helpers call Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user under which a helper gives an identity token instead of a password.
const TOKEN_USER: &str = "<token>";
/// Longest file, and longest answer of a helper, in bytes.
const LIMIT: u64 = 256 * 1024;
/// How long what was read is good for.
const LIFE: Duration = Duration::from_secs(5 * 60);
/// What was refused is read anew when it is older than this.
const RETRY: Duration = Duration::from_secs(10);
/// How long a helper may take.
const HELPER: Duration = Duration::from_secs(20);

/// Where a login comes from. What is read is kept for some minutes.
pub struct Login {
    registry: String,
    source: Source,
    known: Mutex<Option<(Instant, Identity)>>,
    /// One reads at a time.
    reading: Semaphore,
    /// When it was last told that it was refused.
    told: Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Source {
    Fixed(Identity),
    File {
        user: String,
        file: PathBuf,
    },
    /// Docker's `config.json`.
    Docker(PathBuf),
    /// `docker-credential-NAME`.
    Helper(String),
}

/// Who one is for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// User and password.
    Password(String, Secret),
    /// A refresh token for the registry's token service.
    Token(Secret),
}

impl Login {
    /// Reads what can be read without running anything.
    pub(crate) fn new(registry: &str, credentials: &Credentials) -> Result<Self, String> {
        let Credentials { user, password, password_file, password_env, docker_config, helper } = credentials;
        let given = [password.is_some(), password_file.is_some(), password_env.is_some()];
        let other = [docker_config.is_some(), helper.is_some()];
        if given.iter().chain(&other).filter(|given| **given).count() != 1 {
            return Err(
                "credentials need one of `password`, `password_file`, `password_env`, `docker_config` \
                        and `helper`, and no more"
                    .into(),
            );
        }
        let user = match user {
            Some(user) if user.contains(':') => return Err("a user name cannot hold a colon".into()),
            Some(_) if other.contains(&true) => {
                return Err("`user` comes from `docker_config` or `helper`: leave it out".into());
            }
            None if given.contains(&true) => return Err("credentials need a `user`".into()),
            user => user.clone().unwrap_or_default(),
        };
        let source = if let Some(password) = password {
            Source::Fixed(Identity::Password(user, password.clone()))
        } else if let Some(name) = password_env {
            Source::Fixed(Identity::Password(user, environment(name)?))
        } else if let Some(file) = password_file {
            read_password(file)?;
            Source::File { user, file: file.clone() }
        } else if let Some(file) = docker_config {
            if DockerConfig::read(file)?.find(registry)?.is_none() {
                return Err(format!("{} has no login for it: `docker login {registry}`", file.display()));
            }
            Source::Docker(file.clone())
        } else {
            let name = helper.clone().unwrap_or_default();
            check_helper(&name)?;
            Source::Helper(name)
        };
        let (known, reading, told) = (Mutex::default(), Semaphore::new(1), Mutex::default());
        Ok(Self { registry: registry.to_owned(), source, known, reading, told })
    }

    /// Who to be. Errors are for people, and say no secret.
    pub(crate) async fn get(&self) -> Result<Identity, String> {
        if let Source::Fixed(identity) = &self.source {
            return Ok(identity.clone());
        }
        if let Some(identity) = self.known() {
            return Ok(identity);
        }
        let turn = timeout(HELPER, self.reading.acquire()).await;
        let _turn = turn.map_err(|_| "others wait for the same login for too long".to_owned())?;
        if let Some(identity) = self.known() {
            return Ok(identity);
        }
        let identity = self.read().await?;
        *self.lock() = Some((now(), identity.clone()));
        Ok(identity)
    }

    /// The registry took it no longer: the next who asks reads it anew. Told once in a while.
    pub(crate) fn refused(&self) {
        self.lock().take_if(|(at, _)| at.elapsed() >= RETRY);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= LIFE) {
            *told = Some(now());
            tracing::warn!(
                registry = self.registry,
                "the registry refuses the `credentials` of the configuration"
            );
        }
    }

    fn known(&self) -> Option<Identity> {
        self.lock().as_ref().filter(|(at, _)| at.elapsed() < LIFE).map(|(_, identity)| identity.clone())
    }

    async fn read(&self) -> Result<Identity, String> {
        match &self.source {
            Source::Fixed(identity) => Ok(identity.clone()),
            Source::File { user, file } => {
                let file = file.clone();
                let password = blocking(move || read_password(&file)).await?;
                Ok(Identity::Password(user.clone(), password))
            }
            Source::Docker(path) => {
                let (file, registry) = (path.clone(), self.registry.clone());
                match blocking(move || DockerConfig::read(&file)?.find(&registry)).await? {
                    Some(Found::Here(identity)) => Ok(identity),
                    Some(Found::Helper(name)) => ask_helper(&program(&name), &self.registry).await,
                    None => Err(format!("{} has no login for it any more", path.display())),
                }
            }
            Source::Helper(name) => ask_helper(&program(name), &self.registry).await,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Identity)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("registry", &self.registry).field("source", &self.source).finish()
    }
}

impl Identity {
    /// As an `Authorization`; a token is for the token service only.
    pub(crate) fn basic(&self) -> Option<Secret> {
        let Self::Password(user, password) = self else { return None };
        let pair = format!("{user}:{}", password.reveal());
        Some(Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))))
    }
}

/// What of Docker's `config.json` is about logins.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerAuth {
    /// `user:password` in base64.
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// Where a login is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Here(Identity),
    Helper(String),
}

impl DockerConfig {
    fn read(file: &Path) -> Result<Self, String> {
        let text = read(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
        // The error's text may quote what stands there.
        let wrong = |e: serde_json::Error| {
            format!("{} is not what `docker login` writes (line {})", file.display(), e.line())
        };
        serde_json::from_str(&text).map_err(wrong)
    }

    /// The login for a registry, in Docker's order: the registry's own helper, the helper for all, the file.
    fn find(&self, registry: &str) -> Result<Option<Found>, String> {
        let is_it = |key: &str| place_of(key) == place_of(docker_name(registry));
        let own = self.cred_helpers.iter().find(|(key, _)| is_it(key)).map(|(_, name)| name);
        if let Some(name) = own.or(Some(&self.creds_store)).filter(|name| !name.is_empty()) {
            check_helper(name)?;
            return Ok(Some(Found::Helper(name.clone())));
        }
        let auth = self.auths.iter().find(|(key, _)| is_it(key)).map(|(_, auth)| auth);
        auth.and_then(|auth| auth.identity().transpose()).transpose().map(|found| found.map(Found::Here))
    }
}

impl DockerAuth {
    fn identity(&self) -> Result<Option<Identity>, String> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.reveal().is_empty()) {
            return Ok(Some(Identity::Token(token.clone())));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Ok(Some(Identity::Password(user.clone(), password.clone())));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.reveal().is_empty()) else { return Ok(None) };
        let pair = base64::engine::general_purpose::STANDARD.decode(auth.reveal()).ok();
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, password) = pair.ok_or("its `auth` is not `user:password` in base64")?;
        Ok(Some(Identity::Password(user.to_owned(), Secret::new(password))))
    }
}

/// Asks a helper as Docker does: the registry on its input, JSON on its output.
async fn ask_helper(program: &str, registry: &str) -> Result<Identity, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: Secret,
    }
    let fail = |what: &str| format!("the credential helper {program} {what}");
    let asked = async {
        let mut child = Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| fail(&format!("cannot be run: {e}")))?;
        let broken = |e: std::io::Error| fail(&format!("cannot be talked to: {e}"));
        if let Some(mut input) = child.stdin.take() {
            // One that needs no input may have closed it.
            let _ = input.write_all(docker_name(registry).as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(LIMIT).read_to_end(&mut answer).await.map_err(broken)?;
        }
        let status = child.wait().await.map_err(broken)?;
        if !status.success() {
            // It says why on its output, where a secret would stand as well.
            return Err(fail(&format!("has no login for {registry} ({status})")));
        }
        serde_json::from_slice(&answer).map_err(|_| fail("does not answer as helpers do"))
    };
    let late = |_| fail(&format!("gives no answer within {} s", HELPER.as_secs()));
    let Answer { username, secret } = timeout(HELPER, asked).await.map_err(late)??;
    Ok(if username == TOKEN_USER { Identity::Token(secret) } else { Identity::Password(username, secret) })
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// A helper is a program of the search path, and no other.
fn check_helper(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!("`{shown}` is no helper: give what follows `docker-credential-` in its name"))
}

/// How Docker's files and helpers call a registry.
fn docker_name(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry }
}

/// Host and port of what a login stands under, which may be written as a URL.
fn place_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "the configuration names the variable")]
fn environment(name: &str) -> Result<Secret, String> {
    match std::env::var(name) {
        Ok(password) if !password.is_empty() => Ok(Secret::new(password)),
        _ => Err(format!("the environment has no `{name}`, in which the password should stand")),
    }
}

fn read_password(file: &Path) -> Result<Secret, String> {
    let text = read(file).map_err(|e| format!("password file {} cannot be read: {e}", file.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn read(file: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file)?.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|e| e.to_string())?
}

#[allow(clippy::disallowed_methods, reason = "what was read grows old")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Identity {
        Identity::Password(user.to_owned(), Secret::new(password))
    }

    fn docker(text: &str, registry: &str) -> Result<Option<Found>, String> {
        serde_json::from_str::<DockerConfig>(text).expect("JSON").find(registry)
    }

    #[test]
    fn dockers_file_is_read_in_dockers_order() {
        let file = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpodW50ZXIy"},
            "reg.test:5000":{"username":"u","password":"p:q"},
            "https://old.test/v1/":{"auth":"dTpwOnE="},
            "token.test":{"auth":"","identitytoken":"hunter2"},
            "empty.test":{},"bad.test":{"auth":"dQ=="}},
            "credHelpers":{"ecr.test":"ecr-login","evil.test":"../sh"},"other":{"a":1}}"#;
        let here = |user: &str, word: &str| Ok(Some(Found::Here(password(user, word))));
        assert_eq!(docker(file, "docker.io"), here("u", "hunter2"));
        assert_eq!(docker(file, "reg.test:5000"), here("u", "p:q"));
        assert_eq!(docker(file, "old.test"), here("u", "p:q"));
        assert_eq!(
            docker(file, "token.test"),
            Ok(Some(Found::Here(Identity::Token(Secret::new("hunter2")))))
        );
        assert_eq!(docker(file, "ecr.test"), Ok(Some(Found::Helper("ecr-login".into()))));
        assert_eq!(docker(file, "reg.test"), Ok(None), "another port is another registry");
        assert_eq!(docker(file, "empty.test"), Ok(None));
        assert!(docker(file, "bad.test").is_err() && docker(file, "evil.test").is_err());
        let all = r#"{"auths":{"reg.test":{"auth":"dTpw"}},"credsStore":"pass"}"#;
        assert_eq!(docker(all, "reg.test"), Ok(Some(Found::Helper("pass".into()))));
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        let folder = tempfile::tempdir().expect("temp");
        let file = folder.path().join("config.json");
        let docker = Credentials { docker_config: Some(file.clone()), ..Credentials::default() };
        let refused = |credentials: &Credentials| {
            let error = Login::new("reg.test", credentials).expect_err("refused");
            assert!(!error.contains("hunter2"), "{error}");
            error
        };
        assert!(refused(&docker).contains("cannot be read"));
        std::fs::write(&file, "{\"auths\":{\"reg.test\":\n{\"auth\":7,hunter2").expect("written");
        assert!(refused(&docker).contains("(line 2)"), "{}", refused(&docker));
        std::fs::write(&file, "{}").expect("written");
        assert!(refused(&docker).contains("docker login reg.test"));
        let secret = || Some(Secret::new("hunter2"));
        let user = Some("u".to_owned());
        for bad in [
            Credentials::default(),
            Credentials { user: user.clone(), ..Credentials::default() },
            Credentials { password: secret(), ..Credentials::default() },
            Credentials { user: Some("a:b".into()), password: secret(), ..Credentials::default() },
            Credentials {
                user: user.clone(),
                password: secret(),
                password_file: Some(file.clone()),
                ..Credentials::default()
            },
            Credentials { user, helper: Some("x".into()), ..Credentials::default() },
            Credentials { helper: Some("a/b".into()), ..Credentials::default() },
            Credentials {
                user: Some("u".into()),
                password_env: Some("NO_SUCH_VARIABLE_HERE".into()),
                ..Credentials::default()
            },
        ] {
            refused(&bad);
        }
    }

    #[tokio::test]
    async fn a_helper_is_asked_as_docker_asks_it_and_what_it_says_is_not_repeated() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("temp");
        let ask = async |script: &str, registry: &str| {
            let file = folder.path().join("docker-credential-test");
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("set");
            ask_helper(file.to_str().expect("text"), registry).await
        };
        let answers =
            r#"read -r server; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' x "$1 $server""#;
        assert_eq!(ask(answers, "reg.test").await, Ok(password("get reg.test", "s")));
        assert_eq!(ask(answers, "docker.io").await, Ok(password("get https://index.docker.io/v1/", "s")));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(ask(token, "reg.test").await, Ok(Identity::Token(Secret::new("t"))));
        for bad in ["echo hunter2; exit 1", "echo '{\"Secret\":\"hunter2\"}'", "exit 0"] {
            let error = ask(bad, "reg.test").await.expect_err(bad);
            assert!(error.contains("docker-credential-test") && !error.contains("hunter2"), "{error}");
        }
        let missing = ask_helper("/no/such/docker-credential-x", "reg.test").await.expect_err("is not there");
        assert!(missing.contains("cannot be run"), "{missing}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_password_in_the_file_is_found_after_some_minutes_or_a_refusal() {
        let file = tempfile::NamedTempFile::new().expect("temp");
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        write("one\r\n");
        let user = Some("u".to_owned());
        let credentials =
            Credentials { user, password_file: Some(file.path().into()), ..Credentials::default() };
        let login = Login::new("reg.test", &credentials).expect("read");
        assert_eq!(login.get().await, Ok(password("u", "one")));
        write("two");
        assert_eq!(login.get().await, Ok(password("u", "one")));
        login.refused();
        assert_eq!(login.get().await, Ok(password("u", "one")), "it is new: a refusal is no reason");
        tokio::time::advance(RETRY).await;
        login.refused();
        assert_eq!(login.get().await, Ok(password("u", "two")));
        write("three");
        tokio::time::advance(LIFE).await;
        assert_eq!(login.get().await, Ok(password("u", "three")));
        std::fs::remove_file(file.path()).expect("removed");
        tokio::time::advance(LIFE).await;
        assert!(login.get().await.expect_err("gone").contains("cannot be read"));
    }
}
