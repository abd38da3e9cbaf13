package snetd

import "strings"

// aliases are old names of keys; where one is set it wins over the new name.
var aliases = map[string]string{
	"daemon_end_point": "daemon_endpoint", "ipfs_end_point": "ipfs_endpoint", "passthrough_endpoint": "service_endpoint",
	"metering_end_point": "metering_endpoint", "heartbeat_svc_end_point": "heartbeat_endpoint",
	"notification_svc_end_point": "notification_endpoint", "pvt_key_for_metering": "private_key_for_metering",
	"pvt_key_for_free_calls": "private_key_for_free_calls",
}

// Reasons why a key becomes no setting.
const (
	laterTLS       = "TLS comes with a later release. Until then clients reach this service without TLS: put a TLS proxy in front, or stay with the old daemon where clients use https."
	laterTranslate = "services that do not speak gRPC come with a later release."
	laterRate      = "rate limits come with a later release."
	laterAlerts    = "probes and alerts come with a later release; /readyz and /metrics on admin.address say how the process is."
	laterMetering  = "usage posts come with a later release; Prometheus metrics are at /metrics on admin.address."
	laterTraining  = "model training comes with a later release."
	laterPricing   = "prices that the service computes come with a later release; the prices of the metadata are charged."
	laterHooks     = "log hooks come with a later release."
	notCopied      = " The secret was not copied; it is still in the old file."
	neverRead      = "the old daemon never reads it."
)

// publicTokenSecret is the peer's default, with which anybody can make tokens.
const publicTokenSecret = "test-secret-key-at-least-32-bytes-long"

// reasons say why a key, or every key below it, becomes no setting. What is not here and not converted is unknown.
var reasons = map[string]string{
	"ssl_cert": laterTLS, "ssl_key": laterTLS, "auto_ssl_domain": laterTLS, "auto_ssl_cache_dir": laterTLS,
	"executable_path": laterTranslate, "service_credentials": laterTranslate + notCopied,
	"enable_dynamic_pricing": laterPricing,
	"rate_limit_per_minute":  laterRate, "burst_size": laterRate,
	"experimental":           "one port serves gRPC, gRPC-Web and HTTP here, so there is nothing to choose.",
	"service_heartbeat_type": laterAlerts, "heartbeat_endpoint": laterAlerts, "alerts_email": laterAlerts,
	"notification_endpoint": laterAlerts,
	"metering_enabled":      laterMetering, "metering_endpoint": laterMetering, "private_key_for_metering": laterMetering + notCopied,
	"model_training_enabled": laterTraining, "model_maintenance_endpoint": laterTraining,
	"log.hooks": laterHooks,
	"payment_channel_storage_client.hot_reload":      "changes of the organization are always followed here.",
	"payment_channel_storage_server.peer_port":       "one etcd member of its own has no peers.",
	"payment_channel_storage_server.token":           "one etcd member of its own needs no cluster token.",
	"payment_channel_storage_server.log_level":       "etcd logs with everything else; see log.level.",
	"payment_channel_storage_server.log_outputs":     "etcd logs with everything else; see log.output.",
	"payment_channel_storage_server.startup_timeout": "start.timeout bounds the start of all parts.",

	"config_path": neverRead, "hdwallet_mnemonic": neverRead + notCopied, "hdwallet_index": neverRead,
	"is_curation_in_progress": neverRead, "curation_address_for_validation": neverRead, "allowed_users": neverRead,
	"monitoring_enabled": neverRead, "monitoring_svc_end_point": neverRead,
	"service_type":  "the service metadata decides; " + neverRead,
	"wire_encoding": "the service metadata decides; " + neverRead, "model_training_endpoint": neverRead,
	"disable_notification": neverRead,
	"port":                 neverRead, "mnemonic": neverRead + notCopied, "wallet_index": neverRead, "db_path": neverRead, "poll_sleep": neverRead,
}

// converted are the keys that become settings of ours.
var converted = []string{
	"token_secret_key", "token_expiry_in_minutes", "private_key_for_free_calls", "trusted_free_call_signers",
	"min_balance_for_free_call", "free_calls_per_address",
	"blockchain_enabled", "blockchain_network_selected", "organization_id", "service_id", "daemon_group_name",
	"ethereum_json_rpc_http_endpoint", "ethereum_json_rpc_ws_endpoint", "registry_address_key", "blockchain_provider_api_key",
	"ipfs_endpoint", "ipfs_timeout", "lighthouse_endpoint", "daemon_endpoint", "daemon_type", "service_endpoint",
	"passthrough_enabled", "service_timeout", "max_message_size_in_mb", "payment_channel_storage_type",
	"payment_channel_storage_client", "payment_channel_storage_server", "payment_channel_cert_path",
	"payment_channel_key_path", "payment_channel_ca_path", "allowed_user_flag", "allowed_user_addresses",
	"authentication_addresses", "log",
}

// Known says whether a top-level key is one of the peer's and none of ours by the same name.
func Known(key string) bool {
	key = strings.ToLower(key)
	if _, alias := aliases[key]; alias || reasons[key] != "" {
		return true
	}
	for _, name := range converted {
		if key == name || name != "log" && strings.HasPrefix(key, name+".") {
			return key != "log"
		}
	}
	return false
}

// reasonFor finds why a key was left out, by its own name or that of the section it stands in.
func reasonFor(key string) (name, why string) {
	for name := key; name != ""; {
		if why := reasons[name]; why != "" {
			return name, why
		}
		i := strings.LastIndex(name, ".")
		if i < 0 {
			break
		}
		name = name[:i]
	}
	return key, "not a setting of snetd v6; it has no effect there either."
}
