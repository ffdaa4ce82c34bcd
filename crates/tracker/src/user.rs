//! The user that the process becomes once it has what only root may have.

use std::ffi::CString;

use nix::{
    errno::Errno,
    unistd::{
        Gid, Group, ResGid, ResUid, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups,
        setresgid, setresuid,
    },
};

use crate::Config;

/// Why the process does not become that user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// There is no such user.
    #[error("`user`: there is no user `{0}` on this machine")]
    NoUser(String),
    /// There is no such group.
    #[error("`group`: there is no group `{0}` on this machine")]
    NoGroup(String),
    /// The user has all rights.
    #[error(
        "`user` is `{0}`, which is root or of its group: name a user without rights, or leave `user` out"
    )]
    Root(String),
    /// Not root, who alone may become another.
    #[error("only root can become the user `{0}`: start as root, or leave `user` and `group` out")]
    NotRoot(String),
    /// The system refuses.
    #[error("cannot become the user `{user}`: {what}: {error}")]
    Refused {
        /// Which.
        user: String,
        /// What was asked of the system.
        what: &'static str,
        /// The system's words.
        #[source]
        error: Errno,
    },
    /// Rights are left.
    #[error(
        "the process became the user `{0}`, and still has rights of root: this system must not be trusted with it"
    )]
    Kept(String),
}

/// A user, a group, and the user's further groups.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// The one that the configuration names, if it does.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, UserError> {
        let Some(name) = &config.user else { return Ok(None) };
        let refused = |what, error| UserError::Refused { user: name.clone(), what, error };
        let unread = |error| refused("the list of users cannot be read", error);
        let mut user = User::from_name(name).map_err(unread)?;
        if user.is_none()
            && let Ok(uid) = name.parse()
        {
            user = User::from_uid(Uid::from_raw(uid)).map_err(unread)?;
        }
        let user = user.ok_or_else(|| UserError::NoUser(name.clone()))?;
        let gid = config.group.as_deref().map(group).transpose()?.unwrap_or(user.gid);
        let login = CString::new(user.name.as_str()).map_err(|_| UserError::NoUser(name.clone()))?;
        let groups =
            getgrouplist(&login, gid).map_err(|error| refused("its groups cannot be read", error))?;
        let root = Gid::from_raw(0);
        if user.uid.is_root() || gid == root || groups.contains(&root) {
            return Err(UserError::Root(name.clone()));
        }
        let account = Self { name: name.clone(), uid: user.uid, gid, groups };
        if Uid::effective().is_root() || account.is_ours() {
            Ok(Some(account))
        } else {
            Err(UserError::NotRoot(account.name))
        }
    }

    /// Makes it the user of the whole process, all threads, and makes sure that there is no way back.
    pub(crate) fn assume(&self) -> Result<(), UserError> {
        let refused = |what| move |error| UserError::Refused { user: self.name.clone(), what, error };
        if !Uid::effective().is_root() {
            // It is that one already, as `of` has seen.
            return Ok(());
        }
        // The user last: the others take its rights.
        setgroups(&self.groups).map_err(refused("its groups cannot be set"))?;
        setresgid(self.gid, self.gid, self.gid).map_err(refused("the group cannot be set"))?;
        setresuid(self.uid, self.uid, self.uid).map_err(refused("the user cannot be set"))?;
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        let back = setresuid(root.0, root.0, root.0).is_ok() || setresgid(root.1, root.1, root.1).is_ok();
        if back || !self.is_ours() || getgroups().map_or(true, |groups| groups.contains(&root.1)) {
            return Err(UserError::Kept(self.name.clone()));
        }
        tracing::info!(user = self.name, uid = %self.uid, gid = %self.gid, "gave up the rights of root");
        Ok(())
    }

    /// Whether the process is of this user and group, in all respects.
    fn is_ours(&self) -> bool {
        let (uid, gid) = (self.uid, self.gid);
        getresuid().ok() == Some(ResUid { real: uid, effective: uid, saved: uid })
            && getresgid().ok() == Some(ResGid { real: gid, effective: gid, saved: gid })
    }
}

fn group(name: &str) -> Result<Gid, UserError> {
    let unknown = || UserError::NoGroup(name.to_owned());
    if let Some(group) = Group::from_name(name).map_err(|_| unknown())? {
        return Ok(group.gid);
    }
    // A number needs no name.
    name.parse().map(Gid::from_raw).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str, group: Option<&str>) -> Result<Option<Account>, UserError> {
        let (user, group) = (Some(user.to_owned()), group.map(str::to_owned));
        Account::of(&Config { user, group, ..Config::default() })
    }

    #[test]
    fn an_unknown_user_is_named_and_root_is_refused() {
        assert!(matches!(Account::of(&Config::default()), Ok(None)));
        for (user, group, words) in [
            ("no-such-user", None, "no user `no-such-user`"),
            ("4294967294", None, "no user `4294967294`"),
            ("nobody", Some("no-such-group"), "no group `no-such-group`"),
            ("root", None, "name a user without rights"),
            ("0", None, "name a user without rights"),
            ("nobody", Some("root"), "name a user without rights"),
        ] {
            let error = account(user, group).expect_err(user).to_string();
            assert!(error.contains(words), "{error}");
        }
        match account("nobody", None) {
            Ok(account) => assert!(account.is_some_and(|account| !account.uid.is_root())),
            Err(error) => assert!(matches!(error, UserError::NotRoot(_)), "{error}"),
        }
    }
}
