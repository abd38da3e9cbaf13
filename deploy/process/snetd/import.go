package snetd

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Import gives our settings (YAML) for the peer's file of that name: every key that has a meaning here as a setting,
// the peer's defaults where a key is absent and ours differ, and the rest as comments with the reason.
func Import(name string, data []byte) ([]byte, error) {
	tree, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	c := &conversion{values: values{tree: tree, used: map[string]bool{}}, document: newDocument(), explained: map[string]bool{}}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		if value, set := tree[alias]; set {
			c.used[alias] = true
			tree[aliases[alias]] = value // the peer lets the old name win
		}
	}
	c.listener()
	c.service()
	c.blockchain()
	c.metadata()
	c.storage()
	c.prepaid()
	c.freeCalls()
	c.allowList()
	c.operators()
	c.log()
	c.rest()
	return c.render(head(name))
}

func head(name string) string {
	return "Settings of mpegate, made by `mpegate config import` from " + name + ".\n" +
		"Run the service with: mpegate serve --config THIS_FILE\n" +
		"SNET_… environment variables and command-line flags of the old daemon are not part of its file and not in here; " +
		"MPEGATE_… variables win over this file (see `mpegate config reference`)."
}

type conversion struct {
	values
	*document
	explained map[string]bool // keys whose reason is given already
}

const secretAdvice = "A secret: better keep it in a file of its own and name that file by "

func (c *conversion) listener() {
	const key, ours = "daemon_endpoint", "listen.address"
	address := c.text(key, "127.0.0.1:8080")
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		c.set(ours, address, "daemon_endpoint has no host:port form; mend it")
		return
	case host == "":
		host = "0.0.0.0"
	case host == "localhost":
		host = "127.0.0.1"
	}
	c.set(ours, net.JoinHostPort(host, port), ifAbsent(c.has(key), "daemon_endpoint was not set: its default"))
	if kind := c.text("daemon_type", "grpc"); kind != "grpc" {
		c.leave("daemon_type: "+kind, "the echo for development has no counterpart here; calls go to service.endpoint.")
	}
}

func ifAbsent(given bool, comment string) string {
	if given {
		return ""
	}
	return comment
}

func (c *conversion) service() {
	endpoint := c.text("service_endpoint", "http://localhost:5000")
	ours, comment := serviceEndpoint(endpoint)
	if !c.has("service_endpoint") {
		comment = "service_endpoint was not set: its default"
	}
	c.set("service.endpoint", ours, comment)
	if !c.boolean("passthrough_enabled", true) {
		c.leave("passthrough_enabled: false", "there is no echo here; calls go to service.endpoint.")
	}
	c.serviceTimeout()
	text := c.text("max_message_size_in_mb", "4")
	if megabytes, err := strconv.ParseUint(text, 10, 32); err == nil && megabytes > 0 {
		c.set("service.max_message_size", fmt.Sprintf("%dMiB", megabytes))
	} else {
		c.set("service.max_message_size", "4MiB", fmt.Sprintf("max_message_size_in_mb was %q, which is no number of MiB: the default", text))
	}
}

// serviceEndpoint writes the endpoint as scheme://host:port. The peer dials anything but https without TLS and does
// not look at a path.
func serviceEndpoint(endpoint string) (ours, comment string) {
	withScheme := endpoint
	if !strings.Contains(endpoint, "://") {
		withScheme = "http://" + endpoint
	}
	parsed, err := url.Parse(withScheme)
	if err != nil || parsed.Hostname() == "" {
		return endpoint, "service_endpoint names no host; mend it"
	}
	scheme, port := "http", parsed.Port()
	if strings.EqualFold(parsed.Scheme, "https") {
		scheme = "https"
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	if strings.Trim(parsed.Path, "/") != "" {
		comment = "the path of service_endpoint has no meaning for gRPC"
	}
	return scheme + "://" + net.JoinHostPort(parsed.Hostname(), port), comment
}

func (c *conversion) serviceTimeout() {
	const ours, otherwise = "service.timeout", "100s"
	text := c.text("service_timeout", otherwise)
	timeout, err := time.ParseDuration(text)
	if err != nil || timeout <= 0 {
		c.set(ours, otherwise, fmt.Sprintf("service_timeout was %q, which the old daemon took for no limit or for nanoseconds; "+
			"here a call always has one: choose it", text))
		return
	}
	c.set(ours, text)
}

func (c *conversion) blockchain() {
	enabled := c.boolean("blockchain_enabled", true)
	c.set("blockchain.enabled", enabled)
	switch network := c.text("blockchain_network_selected", "sepolia"); network {
	case "main":
		c.set("blockchain.network", "mainnet")
	case "sepolia":
		c.set("blockchain.network", "sepolia", ifAbsent(c.has("blockchain_network_selected"), "blockchain_network_selected was not set: its default"))
	default:
		c.set("blockchain.network", "custom", fmt.Sprintf("blockchain_network_selected was %q, with which the old daemon does not start. "+
			"Set chain_id, rpc_url and registry_address below.", network))
		c.set("blockchain.chain_id", map[string]int{"local": 42, "goerli": 5}[network])
	}
	c.secretURL("ethereum_json_rpc_http_endpoint", "blockchain.rpc_url")
	c.secretURL("ethereum_json_rpc_ws_endpoint", "blockchain.websocket_url")
	if key := c.text("blockchain_provider_api_key", ""); key != "" {
		c.set("blockchain.api_key", key, secretAdvice+"blockchain.api_key_file.")
	}
	if address := c.text("registry_address_key", ""); address != "" {
		c.set("blockchain.registry_address", address)
	}
}

// secretURL copies the URL of a node. Without a WebSocket URL the head of the chain is polled.
func (c *conversion) secretURL(key, ours string) {
	text := c.text(key, "")
	if text == "" {
		return
	}
	comment := ""
	if parsed, err := url.Parse(text); err == nil && (parsed.User != nil || parsed.RawQuery != "" || len(strings.Trim(parsed.Path, "/")) > 15) {
		comment = "It seems to hold an access key. " + secretAdvice + ours + "_file."
	}
	c.set(ours, text, comment)
}

func (c *conversion) metadata() {
	for _, field := range [][2]string{{"organization_id", "organization_id"}, {"service_id", "service_id"}} {
		if id := c.text(field[0], ""); id != "" {
			c.set("metadata."+field[1], id)
		} else if c.boolean("blockchain_enabled", true) {
			c.set("metadata."+field[1], "", field[0]+" was not set: write the id in the Registry")
		}
	}
	c.set("metadata.group_name", c.text("daemon_group_name", "default_group"))
	c.set("metadata.ipfs_endpoint", c.text("ipfs_endpoint", "https://ipfs.singularitynet.io:443"))
	gateway := c.text("lighthouse_endpoint", "https://gateway.lighthouse.storage/ipfs/")
	if !strings.HasSuffix(gateway, "/") {
		gateway += "/"
	}
	c.set("metadata.filecoin_gateway", gateway)
	seconds, err := strconv.ParseUint(c.text("ipfs_timeout", "30"), 10, 16)
	if err != nil || seconds == 0 {
		seconds = 30
	}
	c.set("metadata.fetch_timeout", fmt.Sprintf("%ds", seconds))
}

func (c *conversion) allowList() {
	addresses := c.list("allowed_user_addresses")
	if !c.boolean("allowed_user_flag", false) {
		if len(addresses) > 0 {
			c.leave("allowed_user_addresses", "they have no effect while allowed_user_flag is false.")
		}
		return
	}
	c.set("allow_list.enabled", true)
	c.set("allow_list.addresses", addresses)
}

func (c *conversion) operators() {
	if addresses := c.list("authentication_addresses"); len(addresses) > 0 {
		c.set("operators.addresses", addresses)
	}
}

// rest explains every key of the file that was not converted.
func (c *conversion) rest() {
	byReason := map[string][]string{}
	var order []string
	for _, key := range c.leaves() {
		if c.explained[key] || c.used[key] && reasons[key] == "" {
			continue
		}
		name, why := reasonFor(key)
		if byReason[why] == nil {
			order = append(order, why)
		}
		if !slices.Contains(byReason[why], name) {
			byReason[why] = append(byReason[why], name)
		}
	}
	for _, why := range order {
		c.leave(strings.Join(byReason[why], ", "), why)
	}
}

// explain gives one reason to a key and to all below it, if they are in the file.
func (c *conversion) explain(section, why string) {
	found := false
	for _, key := range c.leaves() {
		if key == section || strings.HasPrefix(key, section+".") {
			c.explained[key], found = true, true
		}
	}
	if found {
		c.leave(section, why)
	}
}
