//! Join codes: a secret, and the fingerprint of the cluster's certificate authority, as one word.
//! Each lets one machine in.
//!
//! Decides: the form of a code; whom each admits and until when; what is kept of it, which is a
//! digest, so that who reads the state directory finds no code. Codes are kept by the member that
//! made them, and by no other.

use std::fmt;

use nines_api::{
    failure::{Failure, Kind, Outcome},
    text::rfc3339,
};
use serde::{Deserialize, Serialize};

use super::{StateDir, der, disk, fingerprint, random};

/// File of the codes.
const FILE: &str = "join-codes";
/// Locked while the file is read and written: the command line and the agent both do.
const LOCK: &str = "join-codes.lock";
/// Files of builds that had one code at a time, and whom that admits.
const BEFORE: [(&str, Admits); 2] =
    [("join-code", Admits::Node), ("join-code-server", Admits::Server)];
/// A code that has ended is remembered for so many seconds, so that who comes with it is told why.
const REMEMBERED: u64 = 7 * 86_400;
/// Codes at a time.
const CODES_MAX: usize = 256;
/// Characters of a digest that name its code.
const ID: usize = 6;

/// Whom a join code admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admits {
    /// A director.
    Director,
    /// A witness.
    Witness,
    /// A director or witness: codes of the build before.
    Node,
    /// A real server.
    Server,
}

impl Admits {
    fn also(self, other: Self) -> bool {
        self == other || self == Self::Node && other != Self::Server
    }

    /// With its article.
    pub fn words(self) -> &'static str {
        match self {
            Self::Director => "a director",
            Self::Witness => "a witness",
            Self::Node => "a director or witness",
            Self::Server => "a real server",
        }
    }

    /// Option of `nines code` and `nines join`; empty: none.
    pub fn option(self) -> &'static str {
        match self {
            Self::Director | Self::Node => "",
            Self::Witness => " --witness",
            Self::Server => " --server",
        }
    }
}

/// What is kept of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCode {
    /// Names it; says nothing about its secret.
    pub id: String,
    /// SHA-256 of its secret, hex.
    digest: String,
    /// Whom it admits.
    pub admits: Admits,
    /// The only name it admits; empty: any.
    pub node: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Until when it is valid, in seconds since 1970.
    pub until: u64,
    /// The machine that came with it; empty: none.
    pub used_by: String,
    /// SHA-256 of that machine's public key, hex: it may ask again if the answer was lost.
    used_for: String,
    /// It was taken back.
    pub revoked: bool,
    /// Fingerprint of the authority that it names, hex; empty: the cluster's first one.
    #[serde(default)]
    authority: String,
}

impl JoinCode {
    /// Whether it names another authority than this one.
    pub fn is_outdated(&self, ca_pem: &str) -> bool {
        self.authority != data_encoding::HEXLOWER.encode(&fingerprint(&der(ca_pem)))
    }

    /// Why it admits nobody any more; `None`: it does.
    pub fn over(&self, now: u64) -> Option<NotAdmitted> {
        match () {
            () if self.revoked => Some(NotAdmitted::Revoked),
            () if !self.used_by.is_empty() => Some(NotAdmitted::Used(self.used_by.clone())),
            () if now >= self.until => Some(NotAdmitted::Ended(self.until)),
            () => None,
        }
    }
}

/// Why a code does not let a machine in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// No member gave it, or another one did.
    Unknown,
    /// It is for others.
    Admits(Admits, Admits),
    /// It is for a machine of this name.
    Named(String),
    /// This machine came with it.
    Used(String),
    /// It ended then, in seconds since 1970.
    Ended(u64),
    /// It was taken back.
    Revoked,
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "the join code is wrong, or another member made it; a code is valid on the member \
                 that printed it",
            ),
            Self::Admits(code, machine) => {
                write!(f, "the join code admits {}, not {}", code.words(), machine.words())
            }
            Self::Named(name) => write!(f, "the join code admits a machine named {name} only"),
            Self::Used(name) => {
                write!(f, "the join code was used by {name}; each lets one machine in")
            }
            Self::Ended(at) => write!(f, "the join code ended at {}", rfc3339(at * 1_000)),
            Self::Revoked => f.write_str("the join code was revoked"),
        }
    }
}

/// A machine that comes with a code.
pub struct Comer<'a> {
    /// Secret of the code.
    pub secret: &'a str,
    /// What it wants to be.
    pub admits: Admits,
    /// Name that it wants to have.
    pub name: &'a str,
    /// Its public key as [`super::certificate::key_of`] names it; empty: it has sent none.
    pub key: &'a str,
}

fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

impl StateDir {
    /// Makes a join code that is valid for so many seconds from `now` on; gives it, and what is
    /// kept of it. `node`: the only name it admits; empty: any.
    pub fn new_code(
        &self,
        admits: Admits,
        node: &str,
        valid: u64,
        now: u64,
    ) -> Outcome<(String, JoinCode)> {
        let ca_pem = self.read("ca.pem")?;
        let secret = random::<10>();
        let digest = digest(&data_encoding::HEXLOWER.encode(&secret));
        let made = JoinCode {
            id: digest[..ID].to_owned(),
            digest,
            admits,
            node: node.to_owned(),
            made: now,
            until: now.saturating_add(valid),
            used_by: String::new(),
            used_for: String::new(),
            revoked: false,
            authority: data_encoding::HEXLOWER.encode(&fingerprint(&der(&ca_pem))),
        };
        self.with_codes(now, |codes| {
            if codes.len() >= CODES_MAX
                && let Some(over) = codes.iter().position(|code| code.over(now).is_some())
            {
                codes.remove(over);
            }
            if codes.len() >= CODES_MAX {
                let why = format!("there are {CODES_MAX} already");
                return Err(Failure::new(Kind::Usage, "no join code made", why)
                    .next("nines code revoke all"));
            }
            codes.push(made.clone());
            Ok(())
        })??;
        Ok((join_code(&secret, &der(&ca_pem)), made))
    }

    /// All codes that are remembered, the oldest first.
    pub fn codes(&self, now: u64) -> Outcome<Vec<JoinCode>> {
        self.with_codes(now, |codes| codes.clone())
    }

    /// Takes codes back that still admit somebody: one, or all of them; gives their names.
    pub fn revoke_codes(&self, id: Option<&str>, now: u64) -> Outcome<Vec<String>> {
        self.revoke_codes_if(|code| id.is_none_or(|id| id == code.id), now)
    }

    /// The same of those that this holds of.
    pub fn revoke_codes_if(
        &self,
        wanted: impl Fn(&JoinCode) -> bool,
        now: u64,
    ) -> Outcome<Vec<String>> {
        self.with_codes(now, |codes| {
            let wanted = codes.iter_mut().filter(|code| wanted(code));
            let living = wanted.filter(|code| code.over(now).is_none());
            living
                .map(|code| {
                    code.revoked = true;
                    code.id.clone()
                })
                .collect()
        })
    }

    /// A machine comes with a code, which admits no other from now on; gives the code's name, and
    /// whether it has used the code up only now.
    pub fn claim_code(
        &self,
        comer: &Comer<'_>,
        now: u64,
    ) -> Outcome<Result<(String, bool), NotAdmitted>> {
        let secret = digest(comer.secret);
        self.with_codes(now, |codes| {
            // Digests, so that the time of comparing tells nothing about the secret.
            let Some(code) = codes.iter_mut().find(|code| code.digest == secret) else {
                return Err(NotAdmitted::Unknown);
            };
            let again = !comer.key.is_empty()
                && code.used_for == comer.key
                && code.used_by == comer.name
                && now < code.until;
            match code.over(now) {
                Some(NotAdmitted::Used(_)) if again => {}
                Some(why) => return Err(why),
                None => {}
            }
            if !code.admits.also(comer.admits) {
                return Err(NotAdmitted::Admits(code.admits, comer.admits));
            }
            if !code.node.is_empty() && code.node != comer.name {
                return Err(NotAdmitted::Named(code.node.clone()));
            }
            let first = code.used_by.is_empty();
            (code.used_by, code.used_for) = (comer.name.to_owned(), comer.key.to_owned());
            Ok((code.id.clone(), first))
        })
    }

    /// The machine that came with a code was not let in: the code admits one again.
    pub fn give_code_back(&self, id: &str, now: u64) -> Outcome<()> {
        self.with_codes(now, |codes| {
            for code in codes.iter_mut().filter(|code| code.id == id) {
                (code.used_by, code.used_for) = (String::new(), String::new());
            }
        })
    }

    /// Reads the codes, and writes them if `change` has changed some.
    fn with_codes<T>(&self, now: u64, change: impl FnOnce(&mut Vec<JoinCode>) -> T) -> Outcome<T> {
        let trouble = |e| disk(format!("cannot lock {}", self.file(LOCK).display()), e);
        use std::os::unix::fs::OpenOptionsExt as _;
        let lock = std::fs::File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.file(LOCK))
            .map_err(trouble)?;
        lock.lock().map_err(trouble)?;
        let before: Vec<JoinCode> = if self.file(FILE).exists() {
            serde_json::from_str(&self.read(FILE)?).map_err(|e| {
                Failure::new(Kind::Io, format!("{FILE} is damaged"), e).next(format!(
                    "remove {}, and print join codes anew: nines code",
                    self.file(FILE).display()
                ))
            })?
        } else {
            Vec::new()
        };
        let mut codes = before.clone();
        codes
            .extend(BEFORE.into_iter().filter_map(|(file, admits)| self.code_before(file, admits)));
        codes.retain(|code| now < code.until.saturating_add(REMEMBERED));
        let done = change(&mut codes);
        if codes != before {
            self.write(FILE, &serde_json::to_string_pretty(&codes).expect("plain data"))?;
        }
        for (file, _) in BEFORE {
            let _ = std::fs::remove_file(self.file(file));
        }
        Ok(done)
    }

    /// The code of a build that had one at a time, in clear; `None`: there is none.
    fn code_before(&self, file: &str, admits: Admits) -> Option<JoinCode> {
        let text = std::fs::read_to_string(self.file(file)).ok()?;
        let (until, secret) = text.split_once(' ')?;
        let (until, digest) = (until.parse::<u64>().ok()?, digest(secret));
        Some(JoinCode {
            id: digest[..ID].to_owned(),
            digest,
            admits,
            node: String::new(),
            made: until.saturating_sub(86_400),
            until,
            used_by: String::new(),
            used_for: String::new(),
            revoked: false,
            authority: String::new(),
        })
    }
}

/// Secret and fingerprint as one word for people.
fn join_code(secret: &[u8; 10], ca_der: &[u8]) -> String {
    let mut bytes = secret.to_vec();
    bytes.extend(fingerprint(ca_der));
    let text = data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase();
    let groups: Vec<&str> = (0..text.len()).step_by(8).map(|i| &text[i..i + 8]).collect();
    groups.join("-")
}

/// Back: secret (as text) and fingerprint; `None`: no join code.
pub fn read_code(code: &str) -> Option<(String, [u8; 10])> {
    let text: String = code.chars().filter(|c| *c != '-').collect::<String>().to_uppercase();
    let bytes = data_encoding::BASE32_NOPAD.decode(text.as_bytes()).ok()?;
    let print = bytes.get(10..20)?.try_into().ok()?;
    (bytes.len() == 20).then(|| (data_encoding::HEXLOWER.encode(&bytes[..10]), print))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::random;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_join_code_reads_back_and_a_wrong_one_does_not() {
        let secret = random::<10>();
        let code = join_code(&secret, b"certificate");
        assert_eq!(code.len(), 35, "{code}");
        let (read, print) = read_code(&code).unwrap();
        assert_eq!(read, data_encoding::HEXLOWER.encode(&secret));
        assert_eq!(print, fingerprint(b"certificate"));
        assert!(read_code(&code[1..]).is_none());
        assert!(read_code("hello").is_none());
    }

    fn home(name: &str) -> StateDir {
        let folder = std::env::temp_dir().join(format!("nines-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let home = StateDir(folder);
        home.write("ca.pem", "").unwrap();
        home
    }

    fn made(home: &StateDir, admits: Admits, node: &str) -> String {
        read_code(&home.new_code(admits, node, 3_600, NOW).unwrap().0).unwrap().0
    }

    /// What a machine is told that comes with a secret; "": it is let in.
    fn told(home: &StateDir, secret: &str, admits: Admits, name: &str, now: u64) -> String {
        let comer = Comer { secret, admits, name, key: name };
        home.claim_code(&comer, now).unwrap().err().map_or_else(String::new, |why| why.to_string())
    }

    #[test]
    fn several_codes_live_and_each_is_used_once() {
        let home = home("codes");
        let (first, second) =
            (made(&home, Admits::Director, ""), made(&home, Admits::Director, ""));
        assert_eq!(told(&home, &second, Admits::Director, "lb3", NOW), "");
        assert_eq!(told(&home, &first, Admits::Director, "lb2", NOW), "");
        let used = "the join code was used by lb2; each lets one machine in";
        assert_eq!(told(&home, &first, Admits::Director, "lb4", NOW), used);
        assert_eq!(told(&home, &first, Admits::Director, "lb2", NOW), "", "the answer was lost");
        let again = Comer { secret: &first, admits: Admits::Director, name: "lb2", key: "lb2" };
        assert!(!home.claim_code(&again, NOW).unwrap().unwrap().1, "not for the first time");
        // A machine that sends no key cannot show that it is the same.
        let comer = |name| Comer { secret: &first, admits: Admits::Director, name, key: "" };
        assert!(home.claim_code(&comer("lb2"), NOW).unwrap().is_err());
        // One that was not let in has not used it.
        let id = home.codes(NOW).unwrap()[0].id.clone();
        home.give_code_back(&id, NOW).unwrap();
        let comer = Comer { name: "lb4", key: "lb4", ..again };
        assert!(home.claim_code(&comer, NOW).unwrap().unwrap().1, "for the first time");
        assert_eq!(told(&home, &first, Admits::Director, "lb4", NOW), "");
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn codes_that_are_over_make_room() {
        let home = home("room");
        let secrets: Vec<_> = (0..CODES_MAX).map(|_| made(&home, Admits::Director, "")).collect();
        let full = home.new_code(Admits::Director, "", 3_600, NOW).unwrap_err();
        assert!(full.why.contains("already"), "{full}");
        assert_eq!(told(&home, &secrets[3], Admits::Director, "lb2", NOW), "");
        made(&home, Admits::Director, "");
        assert_eq!(home.codes(NOW).unwrap().len(), CODES_MAX);
        assert_eq!(told(&home, &secrets[4], Admits::Director, "lb3", NOW), "", "it still lives");
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn a_code_is_for_one_role_and_perhaps_one_name() {
        let home = home("roles");
        for (code, machine, words) in [
            (Admits::Director, Admits::Witness, "a director, not a witness"),
            (Admits::Director, Admits::Server, "a director, not a real server"),
            (Admits::Witness, Admits::Director, "a witness, not a director"),
            (Admits::Server, Admits::Director, "a real server, not a director"),
        ] {
            let (secret, why) = (made(&home, code, ""), format!("the join code admits {words}"));
            assert_eq!(told(&home, &secret, machine, "lb2", NOW), why);
            assert_eq!(told(&home, &secret, code, "lb2", NOW), "", "it was not used by that");
        }
        let secret = made(&home, Admits::Director, "lb2");
        let why = "the join code admits a machine named lb2 only";
        assert_eq!(told(&home, &secret, Admits::Director, "lb3", NOW), why);
        assert_eq!(told(&home, &secret, Admits::Director, "LB2", NOW), why);
        assert_eq!(told(&home, &secret, Admits::Director, "lb2", NOW), "");
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn a_code_ends_and_can_be_taken_back() {
        let home = home("ends");
        let secret = made(&home, Admits::Director, "");
        let late = told(&home, &secret, Admits::Director, "lb2", NOW + 3_600);
        assert_eq!(late, "the join code ended at 2027-01-15T09:00:00.000Z");
        assert_eq!(
            told(&home, "00", Admits::Director, "lb2", NOW)[..22],
            *"the join code is wrong"
        );
        let id = home.codes(NOW).unwrap()[0].id.clone();
        assert_eq!(home.revoke_codes(Some("other"), NOW).unwrap(), Vec::<String>::new());
        assert_eq!(home.revoke_codes(Some(&id), NOW).unwrap(), [id.as_str()]);
        let revoked = told(&home, &secret, Admits::Director, "lb2", NOW);
        assert_eq!(revoked, "the join code was revoked");
        let more = [made(&home, Admits::Director, ""), made(&home, Admits::Server, "")];
        assert_eq!(home.revoke_codes(None, NOW).unwrap().len(), 2, "those that live");
        assert_eq!(told(&home, &more[1], Admits::Server, "r1", NOW), revoked);
        assert_eq!(home.codes(NOW + 3_600 + REMEMBERED).unwrap(), [], "forgotten at last");
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn who_reads_the_directory_finds_no_code() {
        let home = home("digests");
        let secret = made(&home, Admits::Director, "");
        let kept = std::fs::read_to_string(home.file(FILE)).unwrap();
        assert!(!kept.contains(&secret) && kept.contains(&digest(&secret)));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(home.file(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn a_code_of_the_build_before_lets_one_machine_in() {
        let home = home("codes-before");
        home.write("join-code", &format!("{} 00ff", NOW + 60)).unwrap();
        home.write("join-code-server", &format!("{} 11ff", NOW + 60)).unwrap();
        assert_eq!(home.codes(NOW).unwrap().len(), 2);
        assert!(!home.file("join-code").exists() && !home.file("join-code-server").exists());
        assert!(told(&home, "00ff", Admits::Server, "r1", NOW).contains("a director or witness"));
        assert_eq!(told(&home, "00ff", Admits::Witness, "wit1", NOW), "");
        assert!(told(&home, "00ff", Admits::Director, "lb2", NOW).contains("used by wit1"));
        assert!(told(&home, "11ff", Admits::Server, "r1", NOW + 60).contains("ended"));
        assert_eq!(told(&home, "11ff", Admits::Server, "r1", NOW), "");
        std::fs::remove_dir_all(&home.0).unwrap();
    }
}
