package snetd

import (
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	storageServer = "payment_channel_storage_server"
	storageClient = "payment_channel_storage_client"
)

// storage decides where channel state lives by the peer's rules: the embedded server's mere presence turns it on,
// else the configured endpoints, else those of the organization metadata; any other type is memory.
func (c *conversion) storage() {
	kind := c.text("payment_channel_storage_type", "etcd")
	switch {
	case !c.boolean("blockchain_enabled", true):
		const why = "nothing is stored while blockchain.enabled is false"
		c.set("channel_state.store", "memory", why)
		c.explainStorage(why + ".")
	case kind != "etcd":
		c.set("channel_state.store", "memory", fmt.Sprintf("payment_channel_storage_type was %q, which is the memory of the process: "+
			"signatures not yet claimed are lost at a restart. Choose embedded or etcd.", kind))
		c.explainStorage("payment_channel_storage_type is not etcd.")
	case !c.serverIsOn():
		c.explain(storageServer, "it is switched off by enabled: false.")
		c.external("")
	case strings.Contains(c.text(storageServer+".cluster", ""), ","):
		c.external("The old daemons held the members of this cluster inside them; ours holds one member of its own at most. " +
			"Run an etcd cluster with an empty data folder at these addresses.")
		c.explain(storageServer, "a cluster of several members is no part of a replica here; see channel_state above.")
	default:
		c.embedded()
	}
}

// serverIsOn: the section's mere presence turns the server on, unless enabled: false is in it.
func (c *conversion) serverIsOn() bool {
	_, present := c.tree[storageServer].(map[string]any)
	return present && c.boolean(storageServer+".enabled", true)
}

func (c *conversion) embedded() {
	server := func(key, otherwise string) string { return c.text(storageServer+"."+key, otherwise) }
	folder := strings.TrimRight(server("data_dir", "storage-data-dir-1.etcd"), "/")
	c.set("channel_state.store", "embedded")
	c.set("channel_state.embedded.data_dir", folder+".mpegate",
		"A new folder beside the old "+folder+": records of the old daemon have another form and are not read. "+
			"Claim what is unclaimed there before you change over; a command that takes them over comes with a later release.")
	c.set("channel_state.embedded.name", server("id", "storage-1"))
	client := c.clientPort(server("scheme", "http"), server("host", "127.0.0.1"), server("client_port", "2379"))
	c.used[storageServer+".cluster"] = true // one member, itself
	if endpoints := c.list(storageClient + ".endpoints"); len(endpoints) > 0 && !(len(endpoints) == 1 && sameEndpoint(endpoints[0], client)) {
		c.leave(storageClient+".endpoints: "+strings.Join(endpoints, " "), "the embedded store is asked in-process. Where these are another cluster, "+
			"set channel_state.store: etcd and channel_state.etcd.endpoints.")
	}
	for _, key := range []string{"connection_timeout", "request_timeout"} {
		c.used[storageClient+"."+key] = true // nothing is dialled
	}
	c.explainCertificates("the embedded store is asked in-process.")
}

func sameEndpoint(a, b string) bool {
	plain := strings.NewReplacer("localhost", "127.0.0.1").Replace
	return strings.TrimRight(plain(a), "/") == strings.TrimRight(plain(b), "/")
}

// clientPort opens the port on which others of this machine could ask the store. It has no authentication, and who
// reaches it can change the books, so ours is never open to a network.
func (c *conversion) clientPort(scheme, host, port string) string {
	url := scheme + "://" + net.JoinHostPort(host, port)
	ip := net.ParseIP(host)
	if host == "localhost" {
		ip = net.IPv4(127, 0, 0, 1)
	}
	if scheme == "http" && ip != nil && ip.IsLoopback() {
		c.set("channel_state.embedded.listen_client_url", "http://"+net.JoinHostPort(ip.String(), port), "for replicas and etcdctl on this machine; it has no authentication")
		return url
	}
	c.leave(storageServer+".client_port: "+url, "the embedded store opens no port to a network here. Where other replicas ask it, "+
		"run an etcd cluster and set channel_state.store: etcd and channel_state.etcd.endpoints in all of them.")
	return url
}

func (c *conversion) external(advice string) {
	endpoints := c.list(storageClient + ".endpoints")
	if len(endpoints) == 0 {
		c.set("channel_state.store", "etcd", strings.TrimSpace("Its endpoints are those of the organization metadata. "+advice))
	} else {
		c.set("channel_state.store", "etcd", advice)
		c.set("channel_state.etcd.endpoints", endpoints)
	}
	for _, field := range [][2]string{{"connection_timeout", "dial_timeout"}, {"request_timeout", "request_timeout"}} {
		text := c.text(storageClient+"."+field[0], "0s")
		if timeout, err := time.ParseDuration(text); err == nil && timeout > 0 {
			c.set("channel_state.etcd."+field[1], text)
		}
	}
	// The peer uses them only when an endpoint says https.
	if len(endpoints) > 0 && !strings.Contains(strings.Join(endpoints, " "), "https") {
		c.explainCertificates("no endpoint of payment_channel_storage_client says https.")
		return
	}
	for _, field := range [][2]string{{"ca", "ca_file"}, {"cert", "cert_file"}, {"key", "key_file"}} {
		if path := c.text("payment_channel_"+field[0]+"_path", ""); path != "" {
			c.set("channel_state.etcd."+field[1], path)
		}
	}
}

// explainStorage gives all storage keys one reason.
func (c *conversion) explainStorage(why string) {
	c.explain(storageServer, why)
	c.explain(storageClient, why)
	c.explainCertificates(why)
}

func (c *conversion) explainCertificates(why string) {
	for _, name := range []string{"ca", "cert", "key"} {
		c.explain("payment_channel_"+name+"_path", why)
	}
}
