package process

import "reflect"

// secretKeys are secret settings whose struct carries no `secret:"true"` tag.
var secretKeys = map[string]bool{
	"blockchain.rpc_url": true, "blockchain.websocket_url": true, "blockchain.api_key": true,
}

// sizeKeys count bytes although their names do not say so.
var sizeKeys = map[string]bool{"envoy.limits.connection_buffer": true}

// settingHelp is the meaning of settings whose struct carries no `help:"…"` tag.
var settingHelp = map[string]string{
	"blockchain.enabled":          "false serves every call without payment and asks no node.",
	"blockchain.network":          "mainnet, sepolia, or custom for any other chain.",
	"blockchain.chain_id":         "Chain id; needed for network custom, else that of the network.",
	"blockchain.rpc_url":          "JSON-RPC URL (http or https) of a node; empty takes a public one of the network. Secret, as it often holds a key.",
	"blockchain.websocket_url":    "WebSocket URL (ws or wss) of a node, which then announces new blocks; empty polls. Secret, as it often holds a key.",
	"blockchain.api_key":          "Key of the node's provider, sent as Authorization header.",
	"blockchain.registry_address": "Address of the Registry contract; empty takes that of the network.",
	"blockchain.confirmations":    "Blocks that must follow the opening of a channel before calls on it are served.",
	"blockchain.poll_interval":    "Time between two questions for the newest block.",
	"blockchain.max_block_age":    "Paid calls are refused once the node has not answered for so long.",
	"blockchain.request_timeout":  "Longest time of one request to the node.",

	"metadata.organization_id":   "Id of the organization in the Registry.",
	"metadata.service_id":        "Id of the service in the Registry.",
	"metadata.group_name":        "Payment group to serve; it is in the metadata of the organization and of the service.",
	"metadata.organization_file": "File with the organization's metadata, instead of the one the Registry names.",
	"metadata.service_file":      "File with the service's metadata, instead of the one the Registry names.",
	"metadata.ipfs_endpoint":     "RPC endpoint of the IPFS node for ipfs:// addresses.",
	"metadata.filecoin_gateway":  "HTTP gateway for filecoin:// addresses; the CID is appended.",
	"metadata.fetch_timeout":     "Longest time of one fetch, retries included.",
	"metadata.max_size":          "Largest document that is fetched.",
	"metadata.refresh_interval":  "Time between two looks for changed metadata.",
	"metadata.check_cid":         "Refuse content that does not match its CID.",

	"envoy.binary":          "Path of Envoy; empty takes $MPEGATE_ENVOY, envoy on PATH, or the pinned Python package.",
	"envoy.concurrency":     "Worker threads of Envoy; 0 is one for each core.",
	"envoy.log_level":       "Envoy's own log: trace, debug, info, warning, error or critical.",
	"envoy.admin":           "Envoy's admin interface, host:port on loopback or unix:/path; empty takes a free loopback port.",
	"envoy.drain_time":      "How long calls under way may go on after a stop was asked for.",
	"envoy.trusted_proxies": "Proxies in front of Envoy whose X-Forwarded-For is believed.",
	"envoy.access_log":      "File that gets one JSON line a call; empty for none.",

	"envoy.cors.allow_origins":  "Origins whose pages may call the service, such as https://app.example.com; * is any.",
	"envoy.cors.allow_headers":  "Request headers allowed beside those of gRPC-Web and payments.",
	"envoy.cors.expose_headers": "Response headers shown to pages beside those of gRPC.",
	"envoy.cors.max_age":        "How long a browser may keep the answer to a preflight request.",

	"envoy.limits.request_header_bytes":    "All headers of a request together.",
	"envoy.limits.request_header_count":    "Header lines of a request.",
	"envoy.limits.connections":             "Client connections at once.",
	"envoy.limits.streams_per_connection":  "Calls at once on one connection.",
	"envoy.limits.connection_buffer":       "Bytes Envoy holds for one connection before it stops to read.",
	"envoy.limits.idle_timeout":            "A connection without a call is closed after this time.",
	"envoy.limits.stream_idle_timeout":     "A call on which no byte moves is ended after this time; 0 takes service.timeout.",
	"envoy.limits.request_headers_timeout": "Longest time in which the headers of a request must arrive.",
	"envoy.limits.authz_timeout":           "Longest time Envoy waits for a payment decision; then the call is refused.",
	"envoy.limits.connect_timeout":         "Longest time to connect to the service and to authz.",
	"envoy.limits.service_connections":     "Connections to the service.",
	"envoy.limits.service_requests":        "Calls at once to the service, waiting ones included.",
}

func helpFor(key, tag string) string {
	if tag != "" {
		return tag
	}
	return settingHelp[key]
}

// setSecrets names the secret settings that have a value.
func (s *Settings) setSecrets() map[string]bool {
	keys := map[string]bool{}
	value := reflect.ValueOf(s).Elem()
	for i := range knownSettings {
		setting := &knownSettings[i]
		if setting.Secret && !value.FieldByIndex(setting.index).IsZero() {
			keys[setting.Key] = true
		}
	}
	return keys
}
