//! Who a process runs as, by a container's own accounts.

use crate::error::{Error, ErrorKind, Result};

/// A container's `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    passwd: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// The ids of a process.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The groups besides.
    pub groups: Vec<u32>,
    /// The home directory; `/` where there is no account.
    pub home: String,
}

impl Accounts {
    /// Reads both files' lines; those that make no sense, and empty files, are passed over, as
    /// `getpwent(3)` does.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let lines = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
        };
        let accounts: Vec<Vec<String>> = lines(passwd);
        let groups: Vec<Vec<String>> = lines(group);
        let account = |fields: &Vec<String>| {
            let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
            let home = rest.get(1).filter(|home| !home.is_empty());
            Some(Account {
                name: name.clone(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: home.map_or("/", String::as_str).to_owned(),
            })
        };
        let group = |fields: &Vec<String>| {
            let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
            let members = rest.first().map_or("", String::as_str);
            Some(Group {
                name: name.clone(),
                gid: gid.parse().ok()?,
                members: members.split(',').map(|member| member.trim().to_owned()).collect(),
            })
        };
        Self {
            passwd: accounts.iter().filter_map(account).collect(),
            groups: groups.iter().filter_map(group).collect(),
        }
    }

    /// The ids of `USER[:GROUP]`, each a name or a number; of nobody in particular, root's.
    ///
    /// Without a group it is the account's, with all groups that list the account besides.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name without an account, [`ErrorKind::InvalidInput`] for a
    /// number out of range.
    pub fn find(&self, text: &str) -> Result<UserIds> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let account = self.account(user)?;
        let uid = match (account, id(user)?) {
            (Some(account), _) => account.uid,
            (None, Some(uid)) => uid,
            (None, None) => return Err(unknown("user", user, "/etc/passwd")),
        };
        let home = account.map_or("/", |account| account.home.as_str()).to_owned();
        let (gid, groups) = match group {
            Some(group) => (self.group(group)?, Vec::new()),
            None => (account.map_or(0, |account| account.gid), self.groups_of(account)),
        };
        Ok(UserIds { uid, gid, groups, home })
    }

    /// By name; a number that nobody is called is looked up as one.
    fn account(&self, user: &str) -> Result<Option<&Account>> {
        let named = self.passwd.iter().find(|account| account.name == user);
        let uid = if named.is_none() { id(user)? } else { None };
        Ok(named.or_else(|| self.passwd.iter().find(|account| Some(account.uid) == uid)))
    }

    fn group(&self, group: &str) -> Result<u32> {
        match (self.groups.iter().find(|known| known.name == group), id(group)?) {
            (Some(known), _) => Ok(known.gid),
            (None, Some(gid)) => Ok(gid),
            (None, None) => Err(unknown("group", group, "/etc/group")),
        }
    }

    fn groups_of(&self, account: Option<&Account>) -> Vec<u32> {
        let Some(account) = account else { return Vec::new() };
        let lists = |group: &&Group| group.members.contains(&account.name);
        let mut gids: Vec<_> = self.groups.iter().filter(lists).map(|group| group.gid).collect();
        gids.sort_unstable();
        gids.dedup();
        gids
    }
}

/// A number, where it is one.
fn id(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        // The largest number means "none" to the kernel.
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("{text} is too large for a user id"))),
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let text = format!("{what} {name:?} is not in the container's {file}");
    Error::new(ErrorKind::NotFound, text).hint("a number needs no account")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_as_image_configs_name_them() {
        let accounts = Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\n# no account\nweb:x:33:34:Web:/srv:\n77:x:5:6::\nbad:x:-1:0\n",
            b"root:x:0:\nwheel:x:10:root,web\nweb:x:34:\naudio:x:63:web\nbroken\n",
        );
        let rows: [(&str, u32, u32, &[u32], &str); 11] = [
            ("", 0, 0, &[], "/root"),
            ("root", 0, 0, &[10], "/root"),
            ("0", 0, 0, &[], "/root"),
            ("web", 33, 34, &[10, 63], "/srv"),
            ("33", 33, 34, &[10, 63], "/srv"),
            ("web:audio", 33, 63, &[], "/srv"),
            ("web:7", 33, 7, &[], "/srv"),
            ("web:", 33, 34, &[10, 63], "/srv"),
            ("1000", 1000, 0, &[], "/"),
            ("1000:1001", 1000, 1001, &[], "/"),
            ("77", 5, 6, &[], "/"),
        ];
        for (text, uid, gid, groups, home) in rows {
            let found = accounts.find(text).unwrap();
            let groups = if uid == 0 { vec![10] } else { groups.to_vec() };
            let expected = UserIds { uid, gid, groups, home: home.to_owned() };
            assert_eq!(found, expected, "{text:?}");
        }
        for (text, words) in [
            ("nobody", "user \"nobody\""),
            ("web:nogroup", "group \"nogroup\""),
            ("4294967295", "too large"),
            ("99999999999", "too large"),
            ("bad", "user \"bad\""),
        ] {
            let error = accounts.find(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let none = Accounts::parse(b"", b"");
        assert_eq!(none.find("").unwrap().home, "/");
        assert!(none.find("root").is_err());
    }
}
