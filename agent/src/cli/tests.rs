//! The command line as people and scripts meet it.

use clap::{CommandFactory, Parser};

use super::args::{Cli, DevVerb, ScaleTo, Verb, parse_duration};
use super::*;
use crate::api::fixture::sight;
use crate::api::server::Server;
use crate::api::stand_in::StandIn;
use crate::args::Power;

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words.split_whitespace())
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_of_the_contract_parses() {
    for words in [
        "up --name a --addr 10.0.0.1 --advertise 1.2.3.4:7400 --bind 0.0.0.0 --zone z --label k=v --data /d --detach",
        "join 10.0.0.1 --token T --data /d",
        "join 10.0.0.1:7400 --token-file F",
        "dev --nodes 3 --data /d --empty",
        "dev kill n1",
        "dev freeze n1 --data /d",
        "dev thaw n1",
        "dev start n1",
        "dev stop",
        "leave --yes --wait",
        "token new --uses 3",
        "token new --admin",
        "token new --viewer --if-index 4 --wait",
        "token list",
        "token revoke x --wait --timeout 5 --if-index 4 --plan",
        "login 10.0.0.1 --token T",
        "status --json --node 10.0.0.1",
        "--json status",
        "--data /d members",
        "members --data /d",
        "roles",
        "apps",
        "ps shop --all",
        "events -f",
        "events --after 3",
        "logs shop/web -f",
        "logs shop --requests -f",
        "logs --requests --json",
        "role log lb json --sample 0.1 --no-query --plan",
        "role log lb off",
        "why role/lb/0",
        "plan f.toml",
        "simulate kill:n1",
        "doctor --json",
        "recover --plan",
        "recover --off --yes",
        "recover --lost n1 --off --yes",
        "recover --lost n1,n2 --yes --force why --timeout 20",
        "backup f",
        "backup f --recovery-key --yes",
        "backup --verify f --passphrase-file p --json",
        "restore f --plan --data /d",
        "restore f --passphrase-file p --name a --addr 10.0.0.1 --force gone --detach",
        "doctor 10.0.0.1 --data /d",
        "simulate kill:n1 zone:a leave:n2 --json",
        "apply f.toml --wait --timeout 90s",
        "apply f.toml --plan --if-index 4",
        "scale shop/web=3 --wait --timeout 90",
        "restart shop",
        "rollback shop --plan",
        "upgrade",
        "top --json",
        "support-bundle --plan",
        "support-bundle --logs --to f",
        "upgrade --finish --yes",
        "stop shop",
        "start shop",
        "rm shop --yes",
        "drain n1",
        "cordon n1 --node n2",
        "uncordon n1",
        "forget n1 --yes --force sold",
        "role pin lb n1",
        "role unpin lb n1",
        "role move lb n1 --to n2 --wait --plan",
        "webhook set http://127.0.0.1/x",
        "webhook set http://127.0.0.1/x --wait --if-index 4",
        "webhook rm --plan",
        "cache purge shop.example.com/static/* --wait --timeout 5s",
        "cache purge --tag product-17 --json",
        "cache purge --app shop --if-index 4",
        "cache purge --all",
        "cache show",
        "address add 192.0.2.10/24 --interface eth0 --wait --timeout 5s",
        "address add 2001:db8::10 --plan --if-index 4",
        "address list --json",
        "address rm 192.0.2.10 --yes",
        "bucket key create shop --bucket media --bucket shop-* --no-create --account shop --plan",
        "bucket key create reports --read-only --json --if-index 4",
        "bucket key list",
        "bucket create media --copies 2 --quota 10GiB --versioning --account shop",
        "bucket create archive --erasure 4+2 --json",
        "bucket list",
        "bucket usage media --json",
        "bucket set media --quota none --versioning off",
        "bucket replicate media --to https://s3.example.com/copy --key-id ID --secret-file - --region r --prefix p/",
        "bucket create wide --erasure 8+3 --wait --timeout 90s",
        "bucket set media --copies 2 --wait --timeout 90",
        "bucket replicate media --off --json --plan",
        "bucket replicate media --to http://a/b --key-id ID --wait --timeout 5m",
        "bucket rm media --wait --timeout 5s",
        "bucket rm media --plan",
        "cp cat.jpg media/pets/cat.jpg --content-type image/jpeg",
        "cp media/pets/cat.jpg -",
        "bucket key rm HIRS0000000000000001 --yes --wait",
        "secret set key --app shop --file f --wait --plan",
        "secret list",
        "secret rm key --app shop --yes",
        "secret rotate --wait",
        "cert add shop --cert f --key k --wait --plan",
        "cert add shop --cert - --force why --if-index 4",
        "cert list",
        "cert renew shop.example.com --wait",
        "cert acme set --directory https://ca/dir --contact a@b --contact c@d --agree-tos --ca-file f --wait",
        "cert acme set --directory https://ca/dir --eab-kid k --eab-key-file - --challenge http-01 --plan",
        "cert acme show --json",
        "cert acme off --yes",
        "cert show shop --json",
        "cert rm shop --yes --wait",
        "cert rotate --wait --plan",
        "cert tickets --wait",
        "cert tickets --forget --plan --if-index 4",
        "members --all",
        "completions bash",
        "man",
        "install --print",
        "install -- up --zone a",
        "shim /some/folder",
        "guard /some/folder",
        "sample --port 1",
    ] {
        let parsed = parse(&format!("hirsel {words}"));
        assert!(parsed.is_ok(), "{words}: {}", parsed.unwrap_err());
    }
}

#[test]
fn what_is_wrong_is_a_usage_error_with_the_nearest_word() {
    for (words, hint) in [
        ("staus", "status"),
        ("apply f --wiat", "--wait"),
        ("scale shop=x", "shop/web=5"),
        ("scale shop", "APP/SERVICE=N"),
        ("address add 192.0.2.300/24", "192.0.2.10/24"),
        ("address add 192.0.2.10/x", "192.0.2.10/24"),
        ("drain n1 --timeout 3w", "no unit of time"),
        ("dev --nodes 0", "1..=50"),
        ("bucket create a --copies 2 --erasure 4+2", "cannot be used with"),
        ("bucket create a --quota 10", "no unit"),
        ("bucket set a --versioning yes", "expected on or off"),
        ("bucket replicate a --to https://b/c", "--key-id"),
        ("bucket replicate a --off --to https://b/c", "cannot be used with"),
        ("token new --admin --viewer", "cannot be used with"),
        ("", "Usage"),
    ] {
        let error = parse(&format!("hirsel {words}")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words}");
        assert!(error.to_string().contains(hint), "{words}: {error}");
    }
}

#[test]
fn flags_mean_what_they_say_wherever_they_stand() {
    let cli = parse("hirsel members --data /x --json").unwrap();
    assert_eq!((cli.ask.data.as_deref(), cli.ask.json), (Some(Path::new("/x")), true));
    let Verb::Up(up) = parse("hirsel up --data /y").unwrap().verb else { panic!("not up") };
    assert_eq!(up.node.data.as_deref(), Some(Path::new("/y")));
    let Verb::Scale(scale) = parse("hirsel scale shop/web=3").unwrap().verb else { panic!("not scale") };
    assert_eq!(scale.what, ScaleTo { app: "shop".into(), service: Some("web".into()), replicas: 3 });
    let Verb::Dev(dev) = parse("hirsel dev kill n2 --data /z").unwrap().verb else { panic!("not dev") };
    let power = dev.power.unwrap();
    assert_eq!((power.parts().0.data.as_path(), power.parts().1), (Path::new("/z"), Some(("n2", Power::Kill))));
    let stop = DevVerb::Stop(super::args::DevFolder { data: "/z".into() });
    assert_eq!(stop.parts().1, None);
    assert_eq!(parse_duration("90").unwrap().as_secs(), parse_duration("90s").unwrap().as_secs());
    assert_eq!(parse_duration("2m").unwrap().as_secs(), 120);
    assert!(parse_duration("").is_err() && parse_duration("99999999999999999999").is_err());
}

#[test]
fn help_fits_one_screen_and_names_every_verb() {
    let help = Cli::command().term_width(100).render_help().to_string();
    let expected = include_str!("help.txt");
    assert_eq!(help.trim_end(), expected.trim_end(), "--- help is now:\n{help}");
    assert!(help.lines().count() <= 40, "{} lines", help.lines().count());
    for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
        assert!(help.contains(verb.get_name()), "{} is missing", verb.get_name());
    }
}

#[test]
fn every_verb_shows_an_example() {
    for mut verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()).cloned() {
        let help = verb.render_long_help().to_string();
        assert!(help.contains("Example: hirsel "), "{}: {help}", verb.get_name());
    }
}

#[test]
fn completions_and_man_pages_can_be_made() {
    let mut text = Vec::new();
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        clap_complete::generate(shell, &mut Cli::command(), "hirsel", &mut text);
    }
    assert!(String::from_utf8_lossy(&text).contains("uncordon"));
    let folder = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
    assert!(folder.path().join("hirsel.1").exists() && folder.path().join("hirsel-apply.1").exists());
}

/// Runs a verb against an agent of plain data, and returns its exit status.
async fn exit(agent: &std::sync::Arc<StandIn>, words: &str) -> u8 {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join(target::SOCKET);
    let stop = tokio_util::sync::CancellationToken::new();
    let (server, path, stopped) = (Server::new(agent.clone()), socket.clone(), stop.clone());
    let served = tokio::spawn(async move { server.listen_unix(&path, stopped).await });
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let cli = parse(&format!("hirsel {words} --data {}", folder.path().display())).unwrap();
    let code = match run(cli).await {
        Ok(done) => done.exit(),
        Err(error) => error.code.exit(),
    };
    stop.cancel();
    served.await.unwrap().unwrap();
    code
}

#[tokio::test]
async fn exit_statuses_are_those_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.toml", "app = \"blog\"\n[service.web]\ncommand = [\"serve\"]\n");
    let bad = file("bad.toml", "app = \"blog\"\n[service.web]\ncomand = [\"serve\"]\n");
    let agent = StandIn::new(sight());
    agent.alter(|sight| std::sync::Arc::make_mut(&mut sight.state).cluster.sealing.key = "00000000000000aa".into());
    for (words, expected) in [
        ("status".to_string(), 0),
        ("status --json".into(), 0),
        ("members".into(), 0),
        ("roles".into(), 0),
        ("apps --json".into(), 0),
        ("ps shop".into(), 0),
        ("ps shpo".into(), 9),
        ("events".into(), 0),
        ("logs shop".into(), 0),
        ("why shop/web/3".into(), 0),
        ("why nothing-like-it".into(), 9),
        (format!("plan {good}"), 4),
        (format!("plan {bad}"), 2),
        ("plan /no/such/file".into(), 2),
        ("scale shop/web=2 --wait --timeout 5".into(), 0),
        ("scale shop/web=3 --wait --timeout 300ms".into(), 5),
        ("scale shop/web=3 --if-index 1".into(), 10),
        ("forget n3 --yes".into(), 6),
        ("token new".into(), 0),
        ("token list".into(), 0),
        ("role pin lb n1".into(), 0),
        ("webhook set ftp://x".into(), 2),
        ("cache show".into(), 0),
        ("cache purge shop.test/a/*".into(), 0),
        ("cache purge --app shpo".into(), 9),
        ("cache purge http://shop.test/".into(), 2),
        ("cache purge --all --wait --timeout 300ms".into(), 5),
        ("cache purge --tag a --if-index 1".into(), 10),
        ("cache show".into(), 3),
        ("address list".into(), 0),
        ("address add 192.0.2.0/24".into(), 2),
        ("address add 192.0.2.10/24".into(), 0),
        ("address list".into(), 3),
        ("address rm 192.0.2.10".into(), 6),
        ("address rm 192.0.2.11 --yes".into(), 9),
        ("why 192.0.2.10".into(), 0),
        ("address rm 192.0.2.10 --yes".into(), 0),
        ("bucket key create shop --bucket media".into(), 0),
        ("bucket key create shop --bucket Media".into(), 2),
        ("bucket key create shop --if-index 1".into(), 10),
        ("bucket key list".into(), 0),
        ("bucket list".into(), 7),
        ("cp none-such media/x".into(), 9),
        ("cp media/x y".into(), 7),
        ("bucket key rm HIRS0000000000000001".into(), 6),
        ("bucket key rm HIRS0000000000000001 --yes".into(), 0),
        ("bucket key rm HIRS0000000000000001 --yes".into(), 9),
        ("bucket key rm it --yes".into(), 2),
        ("status".into(), 3),
    ] {
        assert_eq!(exit(&agent, &words).await, expected, "{words}");
    }
    agent.alter(|sight| sight.leadership.leader = None);
    assert_eq!(exit(&agent, "status").await, 3);
    assert_eq!(exit(&agent, "members").await, 0);
    assert_eq!(exit(&agent, "cordon n1").await, 7);
}
