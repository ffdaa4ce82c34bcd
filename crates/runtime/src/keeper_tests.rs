use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{Setup, SetupError};

/// A system below a folder, and what is set up in it.
struct System {
    folder: TempDir,
    keeper: Keeper,
    setup: Setup,
}

const DAEMON: &str = "etc/docker/daemon.json";
const HOSTS: &str = "etc/containerd/certs.d/_default/hosts.toml";
const CONFIG: &str = "etc/containerd/config.toml";
const REGISTRIES: &str = "etc/containers/registries.conf.d/longshore.conf";
const REMOTE: &str = "etc/ostree/remotes.d/os.conf";
const REPOSITORY: &str = "ostree/repo/config";

/// Runtimes whose files are made where they are not there.
const MADE: [Runtime; 3] = [Runtime::Docker, Runtime::Containerd, Runtime::Podman];

impl System {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keeper = Keeper::new(Root::new(folder.path()), folder.path().join("state"));
        let registries = vec!["docker.io".into(), "quay.io".into()];
        let repositories = vec![("os".into(), "http://a.test/repo".into())];
        let mirror = "127.0.0.1:5555".parse().expect("an address");
        let setup = Setup { mirror, registries, repositories };
        Self { folder, keeper, setup }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let this = Self::new();
        files.iter().for_each(|(path, text)| this.put(path, text));
        this
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).expect(path)
    }

    fn try_install(&self, runtime: Runtime) -> Result<Vec<Done>, String> {
        let root = Root::new(self.folder.path());
        let (changes, _) = self.setup.changes(runtime, &root).map_err(|error| error.to_string())?;
        let planned: Result<Vec<_>, _> =
            changes.iter().map(|change| self.keeper.plan(runtime, change)).collect();
        let planned = planned.map_err(|error| error.to_string())?;
        let done = planned.into_iter().map(|plan| self.keeper.apply(runtime, plan));
        done.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn install(&self, runtime: Runtime) -> Vec<Done> {
        self.try_install(runtime).expect("installed")
    }

    fn uninstall(&self, runtime: Runtime) -> Vec<Undone> {
        let outcomes = self.keeper.undo(runtime).expect("undone");
        outcomes.into_iter().map(|outcome| outcome.undone.expect("undone")).collect()
    }

    /// Everything below the root: path, mode, and content or target.
    fn tree(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let (mut tree, mut open) = (Vec::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).expect("readable") {
                let path = entry.expect("readable").path();
                let meta = path.symlink_metadata().expect("there");
                let content = if meta.is_dir() {
                    open.push(path.clone());
                    Vec::new()
                } else if meta.is_symlink() {
                    fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
                } else {
                    fs::read(&path).expect("readable")
                };
                tree.push((path, meta.mode(), content));
            }
        }
        tree.sort();
        tree
    }
}

/// The block of docs/operate/runtimes.md that follows a line with these words.
fn documented(behind: &str) -> String {
    let page = include_str!("../../../docs/operate/runtimes.md");
    let (_, rest) = page.split_once(behind).expect("the words are on the page");
    let (_, block) = rest.split_once("\n```").expect("a block");
    let (_, block) = block.split_once('\n').expect("its language");
    block.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn what_is_written_is_what_the_documentation_says() {
    let system = System::new();
    MADE.into_iter().for_each(|runtime| assert!(system.install(runtime).iter().all(|d| *d == Done::Written)));
    assert_eq!(system.get(DAEMON), documented("`/etc/docker/daemon.json`"));
    assert_eq!(system.get(HOSTS), documented("`/etc/containerd/certs.d/_default/hosts.toml`"));
    assert_eq!(system.get(CONFIG), documented("`/etc/containerd/config.toml`"));
    assert_eq!(system.get(REGISTRIES), documented("`/etc/containers/registries.conf.d/longshore.conf`"));
    // And for those who write it by hand, nothing is left to do.
    let by_hand = System::new();
    for path in [DAEMON, HOSTS, CONFIG, REGISTRIES] {
        by_hand.put(path, &system.get(path));
    }
    let before = by_hand.tree();
    MADE.into_iter().for_each(|runtime| assert!(by_hand.install(runtime).iter().all(|d| *d == Done::There)));
    assert_eq!(by_hand.tree(), before);
    assert!(system.get(CONFIG).starts_with("version = 2\n"));
    let third = documented("A configuration of version 3");
    let system = System::with(&[(CONFIG, "version = 3\n")]);
    system.install(Runtime::Containerd);
    assert_eq!(system.get(CONFIG), format!("version = 3\n\n{third}"));
}

#[test]
fn nothing_is_left_of_what_was_made() {
    for runtime in MADE {
        let system = System::new();
        system.install(runtime);
        assert!(system.uninstall(runtime).iter().all(|undone| *undone == Undone::Removed));
        assert_eq!(system.tree(), [], "{runtime}");
        assert!(system.uninstall(runtime).is_empty());
    }
}

/// Files as people have them, with what must be in them afterwards.
const EXISTING: [(Runtime, &str, &str, &str); 14] = [
    (
        Runtime::Docker,
        DAEMON,
        "{\n    \"log-driver\": \"journald\",\n    \"bip\": \"10.1.0.1/24\"\n}",
        "{\n    \"registry-mirrors\": [\"http://127.0.0.1:5555\"],\n    \"log-driver\": \"journald\",\n    \"bip\": \"10.1.0.1/24\"\n}",
    ),
    (
        Runtime::Docker,
        DAEMON,
        "{\"debug\":true,\"registry-mirrors\":[ \"https://other/\" ]}\r\n",
        "{\"debug\":true,\"registry-mirrors\":[ \"http://127.0.0.1:5555\", \"https://other/\" ]}\r\n",
    ),
    (Runtime::Docker, DAEMON, "{}", "{ \"registry-mirrors\": [\"http://127.0.0.1:5555\"] }"),
    (Runtime::Docker, DAEMON, " \n", "{ \"registry-mirrors\": [\"http://127.0.0.1:5555\"] }\n"),
    (
        Runtime::Docker,
        DAEMON,
        "\u{feff}{\"registry-mirrors\":[]}",
        "\u{feff}{\"registry-mirrors\":[\"http://127.0.0.1:5555\"]}",
    ),
    (
        Runtime::Containerd,
        HOSTS,
        "# ours\nserver = \"https://x\"\n\n# first\n[host.\"https://a\"]\n  [host.\"https://a\".header]\n    x = \"y\"",
        "# ours\nserver = \"https://x\"\n\n[host.\"http://127.0.0.1:5555\"]\ncapabilities = [\"pull\", \"resolve\"]\n\n\
         # first\n[host.\"https://a\"]\n  [host.\"https://a\".header]\n    x = \"y\"",
    ),
    (
        Runtime::Containerd,
        CONFIG,
        "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"x\" # kept",
        "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"x\" # kept\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    ),
    (
        Runtime::Containerd,
        CONFIG,
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry] # c\n  config_path = '' # none\n",
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry] # c\n  config_path = \"/etc/containerd/certs.d\"\n",
    ),
    (
        Runtime::Containerd,
        CONFIG,
        "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.headers]\n",
        "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.headers]\n",
    ),
    (
        Runtime::Containerd,
        CONFIG,
        "oom_score = 0\n",
        "oom_score = 0\n\n[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    ),
    (Runtime::Containerd, CONFIG, "disabled_plugins = [\"cri\"]\n", "disabled_plugins = [\"cri\"]\n"),
    (
        Runtime::Podman,
        REGISTRIES,
        "# mine\n[[registry]]\nlocation = \"x.test\"\n",
        "# mine\n[[registry]]\nlocation = \"x.test\"\n\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:5555/docker.io\"\ninsecure = true\n\n\
         [[registry]]\nprefix = \"quay.io\"\nlocation = \"quay.io\"\n\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:5555/quay.io\"\ninsecure = true\n",
    ),
    (
        Runtime::Ostree,
        REPOSITORY,
        "[core]\nmode=bare\n\n[remote \"up\"]\nurl=http://a.test/repo/\n[remote \"b\"]\nurl=http://b\n",
        "[core]\nmode=bare\n\n[remote \"up\"]\ncontenturl=http://127.0.0.1:5555/ostree/os\nurl=http://a.test/repo/\n\
         [remote \"b\"]\nurl=http://b\n",
    ),
    (
        Runtime::Ostree,
        REMOTE,
        "[remote \"up\"]\nurl = http://a.test/repo",
        "[remote \"up\"]\ncontenturl=http://127.0.0.1:5555/ostree/os\nurl = http://a.test/repo",
    ),
];

#[test]
fn what_was_there_is_kept_and_comes_back_to_the_byte_with_its_mode() {
    for (runtime, path, old, new) in EXISTING {
        let system = System::with(&[(path, old)]);
        fs::set_permissions(system.at(path), fs::Permissions::from_mode(0o640)).expect("set");
        let before = system.tree();
        system.install(runtime);
        assert_eq!(system.get(path), new);
        assert_eq!(fs::metadata(system.at(path)).expect("there").mode() & 0o7777, 0o640);
        let once = system.tree();
        assert!(system.install(runtime).iter().all(|done| *done != Done::Written), "twice is once");
        assert_eq!(system.tree(), once);
        system.uninstall(runtime);
        assert_eq!(system.tree(), before, "{old}");
    }
}

#[test]
fn links_are_followed_within_the_root_and_stay() {
    let system = System::with(&[("srv/daemon.json", "{\"debug\": true}\n")]);
    fs::create_dir_all(system.at("etc/docker")).expect("made");
    symlink("/srv/daemon.json", system.at(DAEMON)).expect("linked");
    // And one into nowhere, through a folder.
    fs::create_dir_all(system.at("etc/containers")).expect("made");
    symlink("../../srv/drop-ins", system.at("etc/containers/registries.conf.d")).expect("linked");
    let before = system.tree();
    system.install(Runtime::Docker);
    system.install(Runtime::Podman);
    assert!(fs::symlink_metadata(system.at(DAEMON)).expect("there").is_symlink());
    assert!(system.get("srv/daemon.json").contains("5555"));
    assert!(system.get("srv/drop-ins/longshore.conf").contains("5555"));
    system.uninstall(Runtime::Docker);
    system.uninstall(Runtime::Podman);
    assert_eq!(system.tree(), before);
    symlink("b", system.at("a")).expect("linked");
    symlink("a", system.at("b")).expect("linked");
    assert!(Root::new(system.folder.path()).resolve(Path::new("/a")).is_err());
}

#[test]
fn what_others_changed_since_stays_and_only_our_part_goes() {
    // Text now for text then, in the words of whoever changes it, and what has to be left.
    type Case = (Runtime, &'static str, Option<&'static str>, fn(&str) -> String, &'static str);
    let cases: [Case; 10] = [
        (Runtime::Docker, DAEMON, None, |t| t.replace(" }", ", \"debug\": true }"), "{ \"debug\": true }\n"),
        (
            Runtime::Ostree,
            REMOTE,
            Some("[remote \"up\"]\nurl=http://a.test/repo\n"),
            |t| t.replace("contenturl", "gpg-verify=false\ncontenturl"),
            "[remote \"up\"]\ngpg-verify=false\nurl=http://a.test/repo\n",
        ),
        (
            Runtime::Docker,
            DAEMON,
            Some("{\"registry-mirrors\": []}"),
            |t| t.replace("5555\"", "5555/\", \"http://b\""),
            "{\"registry-mirrors\": [\"http://b\"]}",
        ),
        (
            Runtime::Docker,
            DAEMON,
            Some("{\"debug\": true}"),
            |t| t.replace("true", "false"),
            "{\"debug\": false}",
        ),
        (
            Runtime::Containerd,
            HOSTS,
            None,
            |t| format!("server = \"x\"\n{t}\n# b\n[host.\"http://b\"]\n"),
            "server = \"x\"\n\n# b\n[host.\"http://b\"]\n",
        ),
        (
            Runtime::Containerd,
            HOSTS,
            Some("[host.\"http://b\"]\n"),
            |t| t.replace("\"resolve\"]\n", "\"resolve\"]\ndial_timeout = \"1s\"\n"),
            "\n[host.\"http://b\"]\n",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            Some("version = 2\n"),
            |t| t.replace("certs.d\"\n", "certs.d\" # mine\nx = 1\n"),
            "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nx = 1\n",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            Some("version = 2\n"),
            |t| t.replace("version = 2\n", "version = 2\noom_score = 1\n"),
            "version = 2\noom_score = 1\n",
        ),
        (
            Runtime::Podman,
            REGISTRIES,
            None,
            |t| format!("{t}\n[[registry]]\nlocation = \"z\"\n"),
            "\n[[registry]]\nlocation = \"z\"\n",
        ),
        (
            Runtime::Podman,
            REGISTRIES,
            None,
            |t| {
                t.replace("insecure = true\n\n", "insecure = true\n[[registry.mirror]]\nlocation = \"z\"\n\n")
            },
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n\n[[registry.mirror]]\nlocation = \"z\"\n\n",
        ),
    ];
    for (runtime, path, old, change, left) in cases {
        let system = System::new();
        if let Some(old) = old {
            system.put(path, old);
        }
        system.install(runtime);
        let ours = system.get(path);
        let changed = change(&ours);
        assert_ne!(ours, changed, "the case changes nothing: {ours}");
        system.put(path, &changed);
        let undone = system.uninstall(runtime);
        assert!(undone.contains(&Undone::Edited), "{undone:?}");
        assert_eq!(system.get(path), left);
        assert!(system.uninstall(runtime).is_empty());
    }
}

#[test]
fn a_file_that_others_removed_stays_removed() {
    let system = System::with(&[(DAEMON, "{}")]);
    system.install(Runtime::Docker);
    fs::remove_file(system.at(DAEMON)).expect("removed");
    assert_eq!(system.uninstall(Runtime::Docker), [Undone::Gone]);
    assert!(!system.at(DAEMON).exists());
}

#[test]
fn a_folder_of_ours_with_files_of_others_stays() {
    let system = System::new();
    system.install(Runtime::Docker);
    system.put("etc/docker/key.json", "{}");
    system.uninstall(Runtime::Docker);
    assert_eq!(system.get("etc/docker/key.json"), "{}");
    assert!(!system.at(DAEMON).exists());
}

#[test]
fn another_address_takes_the_place_of_the_first_and_the_first_file_comes_back() {
    let old = "{\n  \"debug\": true\n}\n";
    let mut system = System::with(&[(DAEMON, old)]);
    system.install(Runtime::Docker);
    system.setup.mirror = "127.0.0.1:7777".parse().expect("an address");
    assert_eq!(system.install(Runtime::Docker), [Done::Written]);
    assert!(system.get(DAEMON).contains("7777") && !system.get(DAEMON).contains("5555"));
    // Also where others have changed it in between.
    system.put(DAEMON, &system.get(DAEMON).replace("true", "false"));
    system.setup.mirror = "127.0.0.1:8888".parse().expect("an address");
    system.install(Runtime::Docker);
    assert!(system.get(DAEMON).contains("8888") && !system.get(DAEMON).contains("7777"));
    assert_eq!(system.uninstall(Runtime::Docker), [Undone::Restored]);
    assert_eq!(system.get(DAEMON), old.replace("true", "false"));
}

#[test]
fn a_crash_between_any_two_steps_harms_nothing() {
    for (runtime, path, old) in [
        (Runtime::Docker, DAEMON, None),
        (Runtime::Docker, DAEMON, Some("{\"debug\": true}")),
        (Runtime::Containerd, HOSTS, None),
        (Runtime::Containerd, CONFIG, Some("version = 2\n")),
        (Runtime::Podman, REGISTRIES, None),
        (Runtime::Ostree, REMOTE, Some("[remote \"up\"]\nurl=http://a.test/repo\n")),
    ] {
        for first_address in [false, true] {
            for stop in 0.. {
                let mut system = System::new();
                if let Some(old) = old {
                    system.put(path, old);
                }
                let before = system.tree();
                if first_address {
                    system.setup.mirror = "127.0.0.1:1111".parse().expect("an address");
                    system.install(runtime);
                    system.setup.mirror = "127.0.0.1:5555".parse().expect("an address");
                }
                system.keeper.steps.set(Some(stop));
                let stopped = system.try_install(runtime).is_err();
                system.keeper.steps.set(None);
                // Either of them may come next, and an undoing may be stopped too.
                if stop % 2 == 0 {
                    system.install(runtime);
                    assert!(system.get(path).contains("5555") || path == CONFIG);
                }
                for stop in 0..30 {
                    system.keeper.steps.set(Some(stop));
                    let outcomes = system.keeper.undo(runtime).expect("readable");
                    assert!(stop < 29, "never done: {outcomes:?}");
                    if outcomes.iter().all(|outcome| outcome.undone.is_ok()) {
                        break;
                    }
                }
                system.keeper.steps.set(None);
                assert_eq!(system.tree(), before, "{runtime} stopped at {stop}");
                if !stopped {
                    assert!(stop > 1);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_new_file_that_a_crash_left_behind_is_cleared_away() {
    let system = System::new();
    let before = system.tree();
    system.install(Runtime::Docker);
    system.put("etc/docker/.daemon.json.longshore", "half");
    system.uninstall(Runtime::Docker);
    assert_eq!(system.tree(), before);
}

#[test]
fn files_that_cannot_be_understood_are_told_with_their_line_and_left() {
    let cases = [
        (Runtime::Docker, DAEMON, "{\n\"a\": 1,\n}", "line 3"),
        (Runtime::Docker, DAEMON, "[]", "an object"),
        (Runtime::Docker, DAEMON, "{\"registry-mirrors\": \"x\"}", "not a list"),
        (Runtime::Docker, DAEMON, "{\"registry-mirrors\": [], \"registry-mirrors\": []}", "twice"),
        (Runtime::Containerd, HOSTS, "a = 1\nb = \n", "line 2"),
        (Runtime::Containerd, HOSTS, "host = {}\n", "by hand"),
        (Runtime::Containerd, CONFIG, "version = 7\n", "version"),
        (
            Runtime::Containerd,
            CONFIG,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
            "`mirrors`",
        ),
        (Runtime::Podman, REGISTRIES, "[[registry]]\nlocation = \"docker.io\"\n", "a block for docker.io"),
        (
            Runtime::Podman,
            "etc/containers/registries.conf",
            "[[registry]]\nprefix = \"quay.io\"\nlocation = \"q.test\"\n",
            "a block for quay.io",
        ),
    ];
    for (runtime, path, text, words) in cases {
        let system = System::with(&[(path, text)]);
        let before = system.tree();
        let error = system.try_install(runtime).expect_err(text);
        assert!(error.contains(words) && error.contains(path), "{error}");
        assert_eq!(system.tree(), before);
    }
    let system = System::new();
    fs::create_dir_all(system.at("etc/docker")).expect("made");
    fs::write(system.at(DAEMON), [0xff, 0xfe]).expect("written");
    assert!(system.try_install(Runtime::Docker).expect_err("no text").contains("UTF-8"));
}

#[test]
fn a_folder_that_is_set_already_is_the_one_that_is_used() {
    let set =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/opt/certs:/x\"\n";
    let system = System::with(&[(CONFIG, set)]);
    let before = system.tree();
    assert_eq!(system.install(Runtime::Containerd), [Done::Written, Done::There]);
    assert!(system.get("opt/certs/_default/hosts.toml").contains("5555"));
    system.uninstall(Runtime::Containerd);
    assert_eq!(system.tree(), before);
}

#[test]
fn a_registry_with_hosts_of_its_own_is_told() {
    let system =
        System::with(&[("etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n")]);
    let (_, notes) =
        system.setup.changes(Runtime::Containerd, &Root::new(system.folder.path())).expect("possible");
    assert!(notes.iter().any(|note| note.contains("certs.d/quay.io/hosts.toml")), "{notes:?}");
}

#[test]
fn names_with_a_port_and_ipv6_do_not_stand_in_podmans_file() {
    let mut system = System::new();
    let root = Root::new(system.folder.path());
    system.setup.registries = vec!["reg.test:5000".into()];
    assert!(matches!(system.setup.changes(Runtime::Podman, &root), Err(SetupError::Registry(_))));
    system.setup.mirror = "[::1]:5555".parse().expect("an address");
    assert!(matches!(system.setup.changes(Runtime::Podman, &root), Err(SetupError::Address(_))));
}

#[test]
fn two_at_a_time_are_refused() {
    let system = System::new();
    let lock = system.keeper.lock().expect("locked");
    assert!(matches!(system.keeper.lock(), Err(KeepError::Busy { .. })));
    drop(lock);
    assert!(system.keeper.lock().is_ok());
}

/// Any JSON object, with a list of mirrors or none, written in some way.
fn objects() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    let members = prop::collection::btree_map("[^\"]*", value, 0..5);
    let mirrors = prop::option::of(prop::collection::vec("https?://[a-z]{1,5}/?", 0..4));
    (members, mirrors, any::<bool>(), "[ \\t\\r\\n]*", "[ \\t\\r\\n]*").prop_map(
        |(members, mirrors, pretty, head, tail)| {
            let mut object: serde_json::Map<_, _> = members.into_iter().collect();
            if let Some(mirrors) = mirrors {
                object.insert("registry-mirrors".into(), mirrors.into());
            }
            let object = serde_json::Value::Object(object);
            let text =
                if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            format!("{head}{}{tail}", text.expect("serialises"))
        },
    )
}

/// Tables as TOML is written, with comments and blank lines between.
fn documents() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just(String::new()),
        "# [^\\x00-\\x08\\x0a-\\x1f\\x7f]{0,20}",
        Just("\t# [host.\"x\"]".to_owned()),
    ];
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("\"\"\"\n[host.x]\n# no comment\n\"\"\"".to_owned()),
        Just("[ 1, # c\n  2 ]".to_owned()),
        Just("{ a = 'b' }".to_owned()),
    ];
    let table = (prop::collection::vec(line, 0..4), prop::collection::vec(value, 0..3), 0..7u8);
    (prop::collection::vec(table, 0..6), any::<bool>()).prop_map(|(tables, end)| {
        let mut text = String::new();
        for (number, (lines, values, kind)) in tables.into_iter().enumerate() {
            lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
            if number > 0 {
                text.push_str(&match kind {
                    0 => format!("[host.\"https://h{number}\"]\n"),
                    1 => format!("  [host.\"https://h{number}\".header] # c\n"),
                    2 => format!("[plugins.\"io.containerd.grpc.v1.cri\".x{number}]\n"),
                    3 => format!("[plugins.'io.containerd.grpc.v1.cri'.registry.y{number}]\r\n"),
                    4 => "[[registry]]\n".to_owned(),
                    5 => {
                        format!("[[registry]]\nprefix = \"p{number}\"\n[[registry.mirror]]\nlocation = 'z'\n")
                    }
                    _ => format!("[t{number}]\n"),
                });
            }
            for (key, value) in values.iter().enumerate() {
                text.push_str(&format!("k{number}_{key} = {value}\n"));
            }
        }
        if end { text } else { text.trim_end().to_owned() }
    })
}

/// Put in, put in again, taken out by record, and taken out by looking for it.
fn there_and_back(runtime: Runtime, path: &str, old: &str) -> Result<(), TestCaseError> {
    let system = System::with(&[(path, old)]);
    let before = system.tree();
    if let Err(error) = system.try_install(runtime) {
        return Err(TestCaseError::fail(format!("{error}: {old:?}")));
    }
    let once = system.tree();
    prop_assert_ne!(&once, &before);
    system.install(runtime);
    prop_assert_eq!(&system.tree(), &once);
    // A blank at the end stands for what others have changed.
    let ours = system.get(path);
    system.put(path, &format!("{ours} "));
    system.uninstall(runtime);
    let found = system.get(path);
    prop_assert!(!found.contains("127.0.0.1:5555"));
    if runtime != Runtime::Docker || !old.trim().is_empty() {
        let same = match runtime {
            Runtime::Docker => {
                serde_json::from_str::<serde_json::Value>(&found).ok() == serde_json::from_str(old).ok()
            }
            _ => found.trim_end() == old.trim_end(),
        };
        prop_assert!(same, "{old:?} became {found:?}");
    }
    system.put(path, old);
    system.install(runtime);
    system.uninstall(runtime);
    prop_assert_eq!(&system.tree(), &before);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn dockers_file_comes_back(old in objects()) {
        there_and_back(Runtime::Docker, DAEMON, &old)?;
    }

    #[test]
    fn containerds_hosts_come_back(old in documents()) {
        there_and_back(Runtime::Containerd, HOSTS, &old)?;
    }

    #[test]
    fn containerds_configuration_comes_back(old in documents()) {
        there_and_back(Runtime::Containerd, CONFIG, &format!("version = 2\n{old}"))?;
    }

    #[test]
    fn podmans_file_comes_back(old in documents()) {
        there_and_back(Runtime::Podman, REGISTRIES, &old)?;
    }

    #[test]
    fn any_text_at_all_gives_words_or_a_change(old in ".*", what in 0..3usize) {
        let (runtime, path) = [(Runtime::Docker, DAEMON), (Runtime::Containerd, HOSTS), (Runtime::Podman, REGISTRIES)]
            .get(what).copied().expect("one");
        let system = System::with(&[(path, &old)]);
        let before = system.tree();
        if system.try_install(runtime).is_ok() {
            system.uninstall(runtime);
        }
        prop_assert_eq!(system.tree(), before);
    }
}
