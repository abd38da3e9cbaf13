package snetd

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
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

// peerTrustedSigners are those the peer trusts when its file names none: the network's marketplace.
var peerTrustedSigners = []string{"0x3Bb9b2499c283cec176e7C707Ecb495B7a961ebf", "0x7DF35C98f41F3Af0df1dc4c7F7D4C19a71Dd059F"}

// freeCalls takes over who may call for nothing. Without a key the peer offers no free calls, and then here one is
// made that no metadata names, which comes to the same.
func (c *conversion) freeCalls() {
	const key = "free_calls.private_key"
	private := c.text("private_key_for_free_calls", "")
	if _, err := crypto.HexToECDSA(private); err == nil {
		c.set(key, private, secretAdvice+key+"_file.")
	} else if private != "" {
		c.explain("private_key_for_free_calls", "it is no private key, 64 hexadecimal digits without 0x. A key is made here and kept in the channel "+
			"state; the log says which address to publish for it.")
	}
	c.trustedSigners()
	const balanceKey, ours = "min_balance_for_free_call", "free_calls.min_balance"
	text := c.text(balanceKey, "10")
	if tokens, err := strconv.ParseUint(text, 10, 64); err != nil {
		c.set(ours, 10, fmt.Sprintf("min_balance_for_free_call was %q, which is no number of tokens: the default", text))
	} else if c.has(balanceKey) {
		c.set(ours, tokens)
	}
	c.quotas()
}

func (c *conversion) trustedSigners() {
	const ours = "free_calls.trusted_signers"
	listed := c.list("trusted_free_call_signers")
	if listed == nil {
		c.set(ours, peerTrustedSigners, "trusted_free_call_signers was not set: its default, the network's marketplace")
		return
	}
	known := []string{}
	var dropped []string
	for _, address := range listed {
		if strings.HasPrefix(address, "0x") && common.IsHexAddress(address) {
			known = append(known, address)
		} else {
			dropped = append(dropped, address)
		}
	}
	c.set(ours, known)
	if len(dropped) > 0 {
		c.leave("trusted_free_call_signers: "+strings.Join(dropped, " "), "these are no addresses; the old daemon does not trust them either.")
	}
}

// quotas: what is 0 for the peer is the number of the metadata, here it is none.
func (c *conversion) quotas() {
	const key = "free_calls_per_address"
	listed, _ := c.get(key).(map[string]any)
	quotas := map[string]any{}
	for _, address := range slices.Sorted(maps.Keys(listed)) {
		c.used[key+"."+address] = true
		text := strings.ToLower(strings.TrimSpace(fmt.Sprint(listed[address])))
		calls, err := strconv.ParseUint(text, 10, 63)
		switch {
		case !strings.HasPrefix(address, "0x") || !common.IsHexAddress(address):
			c.leave(key+": "+address, "it is no address.")
		case text == "unlimited" || text == "infinity":
			quotas[address] = "unlimited"
		case err != nil:
			c.leave(key+": "+address, fmt.Sprintf("%q is no number of calls.", text))
		case calls == 0:
			c.leave(key+": "+address+": 0", "for the old daemon it means the number of the metadata, which holds without this line; here 0 means none.")
		default:
			quotas[address] = calls
		}
	}
	if len(quotas) > 0 {
		c.set("free_calls.per_address", quotas)
	}
}
