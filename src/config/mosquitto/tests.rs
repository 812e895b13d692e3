use std::collections::BTreeSet;

use super::*;
use crate::codec::{QoS, Version};
use crate::journal::Destination;

fn parsed(text: &str) -> Config {
    parse(text, Path::new("m.conf")).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn problems(text: &str) -> Vec<String> {
    let problems = parse(text, Path::new("m.conf")).expect_err("it has problems");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_language_is_known_by_its_syntax() {
    let is = |text: &str, path: &str| is_mosquitto(text, Path::new(path));
    for text in ["listener 1883", "# a\n\n  persistence true\n", "allow_anonymous\n", "x\ty"] {
        assert!(is(text, "w.toml"), "{text}");
    }
    for text in ["max_qos = 1", "max_qos=1", "[[listener]]\nport = 1", "\"a b\" = 1", "maxqos"] {
        assert!(!is(text, "m.conf"), "{text}");
    }
    assert!(is("# nothing\n", "m.conf") && !is("# nothing\n", "w.toml"));
}

#[test]
fn what_is_not_said_is_as_in_mosquitto() {
    let config = parsed("");
    let limits = &config.broker.limits;
    assert_eq!(limits.maximum_packet_size, 2_000_000);
    assert_eq!((limits.receive_maximum.get(), limits.inflight_max.get()), (20, 20));
    assert_eq!((limits.topic_alias_maximum, limits.send_alias_maximum), (10, 10));
    assert_eq!(config.broker.queue.messages_max, 1000);
    assert_eq!(config.store.durability, Durability::Memory);
    assert_eq!(config.anonymous, Some(Anonymous::LoopbackOnly));
    assert!(config.listeners.is_empty());
}

#[test]
fn who_opens_a_listener_says_who_may_come() {
    let anonymous = |text: &str| {
        let config = parsed(text);
        config.openings().unwrap().iter().map(|opening| opening.anonymous).collect::<Vec<_>>()
    };
    use Anonymous::{Allowed, Denied};
    assert_eq!(anonymous("listener 0 s1\n"), [Denied]);
    assert_eq!(anonymous("port 1884\nsocket_domain ipv4\n"), [Denied]);
    assert_eq!(anonymous("listener 0 s1\nallow_anonymous true\nlistener 0 s2\n"), [Allowed; 2]);
    let per = "per_listener_settings true\nlistener 0 s1\nallow_anonymous true\nlistener 0 s2\n";
    assert_eq!(anonymous(per), [Allowed, Denied]);
    let own = "allow_anonymous false\nlistener 0 s1\nlistener_allow_anonymous 1\nlistener 0 s2\n";
    assert_eq!(anonymous(own), [Allowed, Denied]);
}

#[test]
fn options_belong_to_the_listener_above_them() {
    let config = parsed(
        "max_connections 5\nport 1900\nbind_address 127.0.0.1\n\
         listener 8080\nprotocol websockets\nmax_connections -1\naccept_protocol_versions 4,5\n\
         listener 0 /run/m.sock\nmax_qos 1\nmax_topic_alias 3\nmount_point m/\n",
    );
    let [first, second, third] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((first.port, first.connections_max), (Some(1900), Some(5)));
    assert_eq!(first.bind_address.as_deref(), Some("127.0.0.1"));
    assert!(second.is_websocket && second.connections_max == Some(i64::MAX as usize));
    assert_eq!(second.versions, [Version::V311, Version::V5]);
    assert_eq!(third.socket.as_deref(), Some(Path::new("/run/m.sock")));
    assert_eq!((third.maximum_qos, third.topic_alias_maximum), (Some(QoS::AtLeastOnce), Some(3)));
    let admission = &config.openings().unwrap().pop().unwrap().admission;
    assert_eq!(admission.mount_point.as_deref(), Some("m/"));
    assert_eq!(admission.limits.maximum_qos, QoS::AtLeastOnce);
}

#[test]
fn values_are_written_as_there() {
    let config = parsed(
        "max_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0x100\n\
         persistent_client_expiration 2w\npersistence 1\npersistence_location data dir/\n\
         max_packet_size 999999999 # as large as can be\nmax_inflight_bytes 0\n\
         log_dest file /a b.log\nlog_dest stderr\nlog_type error\nlog_type notice\n\
         log_timestamp_format %Y\nallow_zero_length_clientid false\nqueue_qos0_messages true\n",
    );
    let limits = &config.broker.limits;
    assert_eq!((limits.inflight_max.get(), limits.receive_maximum.get()), (65_535, 65_535));
    assert_eq!(limits.session_expiry_max_s, 14 * 86_400);
    assert_eq!((limits.maximum_packet_size, limits.inflight_bytes_max), (268_435_455, usize::MAX));
    assert_eq!(config.broker.queue.bytes_max, 256);
    assert!(config.broker.queue.messages_max > 1 << 40 && config.broker.queue.keeps_qos0);
    assert_eq!(config.store.durability, Durability::Fsync);
    assert_eq!(config.store.directory, Path::new("data dir/"));
    let file = Destination::File("/a b.log".into());
    assert_eq!(config.journal.destinations, [file, Destination::Stderr]);
    assert_eq!(config.journal.kinds, kind::ERROR | kind::NOTICE);
    assert_eq!(config.journal.timestamp, Timestamp::Strftime("%Y".into()));
    assert!(!config.assigns_ids);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_line() {
    let text = "# x\nmax_conections 5\nmax_qos 3\nport x\nauth_plugin /a.so\n\
                auth_opt_a b\nconnection b\naddress c\ntopic #\nlog_type loud\n\
                persistent_client_expiration 3\nlistener 0\nbridge_psk 1\ncolour blue\n\
                psk_hint false\n";
    let said = problems(text);
    let starts = [
        "m.conf:2: unknown option `max_conections`; did you mean `max_connections`?",
        "m.conf:3: `max_qos` must be an integer from 0 to 2, not `3`",
        "m.conf:4: `port` must be an integer from 1 to 65535",
        "m.conf:5: `auth_plugin`: Whimbrel loads no plugins",
        "m.conf:7: `connection`: Whimbrel does not bridge",
        "m.conf:10: `log_type` must be",
        "m.conf:11: `persistent_client_expiration` must be a number and",
        "m.conf:12: a `listener` with port 0 needs the path",
        "m.conf:14: unknown option `colour`; docs/mosquitto.md lists all",
    ];
    assert_eq!(said.len(), starts.len(), "{said:#?}");
    for (said, start) in said.iter().zip(starts) {
        assert!(said.starts_with(start), "{said}");
    }
}

#[test]
fn what_means_something_else_here_is_warned_of() {
    let config = parsed("autosave_interval 60\nlog_dest dlt\n");
    let said: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("m.conf:1: `autosave_interval`: everything that was acknow"));
    assert_eq!(config.journal.destinations, [Destination::Stderr]);
}

#[test]
fn two_brokers_may_keep_their_stores_in_one_place() {
    let directory = |text: &str| parsed(text).store.directory;
    let named = directory("persistence_file b.db\npersistence_location /p/\n");
    assert_eq!(named, Path::new("/p/b.db.whimbrel"));
    assert_eq!(directory("persistence_location /p/\n"), Path::new("/p"));
    assert_eq!(problems("persistence_file /p/b.db\n").len(), 1);
}

#[test]
fn origins_add_up() {
    let text = "listener 0 s\nprotocol websockets\nwebsockets_origin a.example\n\
                websockets_origin https://b.example\n";
    assert_eq!(parsed(text).listeners[0].websocket_origins, ["a.example", "https://b.example"]);
}

#[test]
fn security_is_the_listeners_or_the_brokers() {
    let global = parsed("password_file p\nlistener 0 s\n");
    assert_eq!(global.password_file.as_deref(), Some(Path::new("p")));
    let per = parsed("per_listener_settings true\nlistener 0 s\npassword_file p\n");
    assert_eq!((per.password_file, per.listeners.len()), (None, 1));
    assert_eq!(per.listeners[0].password_file.as_deref(), Some(Path::new("p")));
    let said = problems("per_listener_settings true\npassword_file p\n");
    assert!(said[0].contains("needs a `listener` above it"), "{said:?}");
    let said = problems("password_file p\nper_listener_settings true\n");
    assert!(said[0].starts_with("m.conf:2: `per_listener_settings` must stand before"), "{said:?}");
}

#[test]
fn settings_of_ours_are_options_too() {
    let config = parsed("commit_interval 2ms\nlistener 0 s\ndurability memory\n");
    assert_eq!(config.store.commit_interval_us, 2000);
    assert_eq!(config.listeners[0].durability, Some(Durability::Memory));
    assert_eq!(config.given.get("commit_interval").map(String::as_str), Some("2ms"));
    assert_eq!(config.given.get("listener s: durability").map(String::as_str), Some("memory"));
}

#[test]
fn plugins_that_are_mosquittos_own_files_are_those() {
    let own = "plugin /usr/lib/mosquitto_password_file.so\nplugin_opt_password_file p\n\
               global_plugin mosquitto_acl_file.so\nplugin_opt_acl_file a\nlistener 0 s\n";
    let config = parsed(own);
    assert_eq!(config.password_file.as_deref(), Some(Path::new("p")));
    assert_eq!(config.acl_file.as_deref(), Some(Path::new("a")));
    let loaded = "plugin_load pw /x/mosquitto_password_file.so\nplugin_opt_password_file p\n\
                  listener 0 s1\nplugin_use pw\nlistener 0 s2\nallow_anonymous true\n";
    let config = parsed(loaded);
    assert_eq!(config.listeners[0].password_file.as_deref(), Some(Path::new("p")));
    assert_eq!((config.password_file, &config.listeners[1].password_file), (None, &None));
    let per = format!("per_listener_settings true\nlistener 0 t\n{own}");
    let config = parsed(&per.replace("global_", ""));
    assert_eq!(config.listeners[0].acl_file.as_deref(), Some(Path::new("a")));
    let lacks = problems("plugin mosquitto_acl_file.so\nlistener 0 s\n");
    assert_eq!(lacks, ["m.conf:1: this plugin needs `plugin_opt_acl_file`"]);
    let other = "plugin mosquitto_acl_file.so\nplugin_opt_acl_file a\nplugin_opt_more b\n";
    assert!(problems(other)[0].contains("no option but `plugin_opt_acl_file`"));
    assert_eq!(problems("plugin x.so\nplugin_opt_acl_file a\n").len(), 1);
    assert!(problems("listener 0 s\nplugin_use pw\n")[0].contains("loads no plugins"));
    // The option of a plugin is for the listener that the plugin is for.
    let apart = parsed(
        "per_listener_settings true\nlistener 0 s1\nplugin mosquitto_acl_file.so\n\
         listener 0 s2\nplugin_opt_acl_file a\nacl_file b\n",
    );
    let files = apart.listeners.iter().map(|listener| listener.acl_file.as_deref());
    assert!(files.eq(["a", "b"].map(|file| Some(Path::new(file)))));
}

#[test]
fn a_second_file_is_refused_where_only_one_would_hold() {
    let of_all = "global_plugin mosquitto_acl_file.so\nplugin_opt_acl_file a\n";
    let named = "plugin_load x mosquitto_acl_file.so\nplugin_opt_acl_file b\n\
                 plugin_load y mosquitto_acl_file.so\nplugin_opt_acl_file c\n";
    for text in [
        format!("per_listener_settings true\n{of_all}listener 0 s\nacl_file b\n"),
        format!("per_listener_settings true\nlistener 0 s\nacl_file b\n{of_all}"),
        format!("{of_all}acl_file b\nlistener 0 s\n"),
        format!("{named}listener 0 s\nplugin_use x\nplugin_use y\n"),
        format!("{named}acl_file a\nlistener 0 s\nplugin_use x\n"),
    ] {
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains("has one `acl_file`"), "{text}: {found:?}");
    }
    let apart = format!("{named}listener 0 s\nplugin_use x\nlistener 0 t\nplugin_use y\n");
    assert_eq!(parsed(&apart).listeners.len(), 2);
}

/// What is implemented takes the values that mosquitto takes, and says nothing.
#[test]
fn what_is_implemented_takes_what_mosquitto_takes() {
    let rows = options::OPTIONS.iter().filter(|row| row.is_setting() || row.fate == Fate::Read);
    for Row { name, .. } in rows {
        let value = match *name {
            "accept_protocol_versions" => "3, 4, 5",
            "acl_file" | "capath" | "cafile" | "crlfile" | "password_file" => continue,
            "certfile" | "keyfile" | "include_dir" | "require_certificate" => continue,
            "auto_id_prefix" | "clientid_prefixes" | "listener_auto_id_prefix" => "device-",
            "bind_address" => "127.0.0.1",
            "bind_interface" => "lo",
            "ciphers" => "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
            "ciphers_tls1.3" => "TLS_AES_128_GCM_SHA256",
            "enable_proxy_protocol" | "log_facility" | "max_qos" | "maximum_qos" => "2",
            "listener" => "1884 127.0.0.1",
            "log_dest" => "file /var/log/mosquitto/mosquitto.log",
            "log_timestamp_format" => "%Y-%m-%dT%H:%M:%S",
            "log_type" => "all",
            "max_connections" | "global_max_connections" | "global_max_clients" => "-1",
            "memory_limit" | "max_queued_bytes" | "message_size_limit" => "0",
            "mount_point" => "house/",
            "persistence_file" => "mosquitto.db",
            "persistence_location" | "pid_file" => "/var/lib/mosquitto/",
            "persistent_client_expiration" => "2m",
            "protocol" => "websockets",
            "proxy_protocol_v2_require_tls" => "false",
            "socket_domain" => "ipv4",
            "tls_keyform" => "pem",
            "tls_version" => "tlsv1.2",
            "use_identity_as_username" | "use_subject_as_username" => "false",
            "user" => "mosquitto",
            "websockets_origin" => continue,
            _ if name.starts_with("max_") || name.ends_with("_interval") => "100",
            "port" => "1884",
            _ => "true",
        };
        let text = format!("listener 1886 127.0.0.1\n{name} {value}\n");
        assert!(parsed(&text).warnings.is_empty(), "{text}");
    }
}

#[test]
fn an_option_is_in_the_table_once_and_in_order() {
    let names: Vec<&str> = options::OPTIONS.iter().map(|row| row.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    for scope in [false, true] {
        let rows = options::OPTIONS.iter().filter(|row| (row.scope == Scope::Bridge) == scope);
        assert!(rows.map(|row| row.name).is_sorted());
    }
}

#[test]
fn a_row_that_leaves_it_to_the_reader_is_read() {
    let rows = options::OPTIONS.iter().filter(|row| row.fate == Fate::Read);
    for name in rows.map(|row| row.name) {
        let value = match name {
            "listener" | "port" => "1884",
            "log_dest" => "stderr",
            "log_type" => "all",
            "log_timestamp_format" => "%s",
            "log_facility" | "maximum_qos" | "max_inflight_messages" => "2",
            "bind_address" => "127.0.0.1",
            "protocol" => "mqtt",
            "tls_keyform" => "pem",
            "persistence_file" => "a.db",
            "include_dir" => "/nowhere",
            "listener_auto_id_prefix" => "a",
            _ => "true",
        };
        let text = format!("listener 0 s\n{name} {value}\n");
        match parse(&text, Path::new("m.conf")) {
            Ok(_) => {}
            Err(said) => {
                let missing = "m.conf:2: `include_dir` /nowhere";
                assert!(said[0].to_string().starts_with(missing), "{text}{said:?}");
            }
        }
    }
}
