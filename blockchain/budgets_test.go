package blockchain

import "testing"

func TestClientKey(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "some-name": "some-name",
	} {
		if got := clientKey(client); got != want {
			t.Errorf("clientKey(%q) = %q, want %q", client, got, want)
		}
	}
	if got := clientKey(string(make([]byte, 10_000))); len(got) != longestClientName {
		t.Errorf("a name of %d bytes is kept", len(got))
	}
}
