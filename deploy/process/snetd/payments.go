package snetd

import (
	"fmt"
	"strconv"
)

// prepaid takes over how tokens of prepaid calls are signed. Without a secret of his own the peer's operator has the
// public default; here one is made.
func (c *conversion) prepaid() {
	const secretKey, expiryKey, ours = "token_secret_key", "token_expiry_in_minutes", "payment.token_secret"
	switch secret := c.text(secretKey, ""); {
	case secret == "":
	case secret == publicTokenSecret:
		c.explain(secretKey, "this is the public default, with which anybody can make tokens. A secret is made here and kept in the channel "+
			"state, where all replicas find it; clients ask for new tokens by themselves.")
	case len(secret) < 32:
		c.explain(secretKey, fmt.Sprintf("it has %d bytes and needs 32. A secret is made here and kept in the channel state; "+
			"clients ask for new tokens by themselves.", len(secret)))
	default:
		c.set(ours, secret, secretAdvice+ours+"_file, or leave both out: then one is made and kept in the channel state.")
	}
	text := c.text(expiryKey, "1440")
	minutes, err := strconv.ParseUint(text, 10, 32)
	const most = 366 * 24 * 60
	switch {
	case err != nil || minutes == 0:
		c.set("payment.token_lifetime", "24h", fmt.Sprintf("token_expiry_in_minutes was %q, which is no number of minutes: the default", text))
	case minutes > most:
		c.set("payment.token_lifetime", fmt.Sprintf("%dm", most), fmt.Sprintf("token_expiry_in_minutes was %d; this is the most that can be set", minutes))
	case c.has(expiryKey):
		c.set("payment.token_lifetime", fmt.Sprintf("%dm", minutes))
	}
}
