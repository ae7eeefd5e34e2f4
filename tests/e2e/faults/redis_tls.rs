//! The certificates and the password of Redis are replaced under load.

use std::path::{Path, PathBuf};

use redis_servers::{Authority, Kind};
use secrecy::ExposeSecret;
use shared::queue::RedisFiles;

use super::{builder, generations, load_recorders, shared};
use crate::support::call_log::CONTRACT;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};

/// Lets `farm` in with a password, which the programs read from a file.
async fn let_in(farm: &Farm, password: &str) {
    let right = format!(">{password}");
    let user = ["ACL", "SETUSER", "farm", "reset", "on", "~*", "&*", "+@all"];
    let all = [&user[..], &[&right]].concat();
    farm.redis_command::<()>(&all).await;
    std::fs::write(password_file(farm), format!("{password}\n")).expect("an own folder");
}

fn password_file(farm: &Farm) -> PathBuf {
    farm.folder().join("password")
}

/// Another authority signs for both sides from now on.
async fn replace_certificates(farm: &mut Farm) {
    let folder = farm.folder().join("certificates");
    std::fs::create_dir(&folder).expect("an own folder");
    let authority = Authority::new(&folder);
    let (certificate, key) = authority.issue(&folder, "server");
    let own = authority.issue(&folder, "client");
    let text = |path: &Path| path.to_str().expect("it is text").to_owned();
    let set = [
        "CONFIG",
        "SET",
        "tls-ca-cert-file",
        &text(&authority.file),
        "tls-cert-file",
        &text(&certificate),
        "tls-key-file",
        &text(&key),
    ];
    farm.redis_command::<()>(&set).await;
    let RedisFiles {
        ca,
        certificate,
        key,
        ..
    } = farm.redis.several().config().files;
    for (from, to) in [(&authority.file, ca), (&own.0, certificate), (&own.1, key)] {
        std::fs::copy(from, to.expect("the test has made it")).expect("an own file");
    }
    farm.redis.several_mut().reread_certificates();
}

#[tokio::test]
async fn fault_38_replace_certificates_and_password() {
    let _machine = shared().await;
    let mut farm = builder().redis(Kind::Tls).apis(0).workers(0).start().await;
    let_in(&farm, "first").await;
    let config = farm
        .redis
        .several()
        .config_of_user("farm", password_file(&farm));
    let password = password_file(&farm).display().to_string();
    let env = [
        ("REDIS_URL", config.url.expose_secret()),
        ("REDIS_PASSWORD_FILE", password.as_str()),
    ];
    for _ in 0..2 {
        farm.join_api_with(&env).await;
        farm.join_with(&env).await;
    }
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;

    let_in(&farm, "second").await;
    farm.client_kill().await;
    load.full_pace().await;
    replace_certificates(&mut farm).await;
    farm.client_kill().await;
    load.full_pace().await;

    client.must_load("late", CONTRACT).await;
    let known = ["ok", "queue_unavailable", "outcome_unknown"];
    load.end().await.check(&client, &known).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}
