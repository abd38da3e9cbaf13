package desk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
)

func TestSettings(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Settings)
		want   string // part of the fault; "" for none
	}{
		{"defaults", func(*Settings) {}, ""},
		{"all", func(s *Settings) {
			s.Keystore, s.PasswordFile, s.Batch, s.MaxGasPrice, s.Least, s.Near = "key.json", "password", 64, "0.05", "340282366920938463463374607431768211456", 5
		}, ""},
		{"two keys", func(s *Settings) { s.Keystore, s.PasswordFile, s.KeyFile = "a", "b", "c" }, "keep one"},
		{"no password", func(s *Settings) { s.Keystore = "a" }, "claims.password_file is not"},
		{"no keystore", func(s *Settings) { s.PasswordFile = "a" }, "claims.keystore is not"},
		{"batch", func(s *Settings) { s.Batch = 65 }, "claims.batch is 65"},
		{"no batch", func(s *Settings) { s.Batch = 0 }, "claims.batch is 0"},
		{"timeout", func(s *Settings) { s.Timeout = 0 }, "claims.timeout is 0s"},
		{"every", func(s *Settings) { s.Every = time.Millisecond }, "claims.every is 1ms"},
		{"price", func(s *Settings) { s.MaxGasPrice = "1e9" }, `claims.max_gas_price is "1e9"`},
		{"price below zero", func(s *Settings) { s.MaxGasPrice = "-1" }, "claims.max_gas_price"},
		{"price of zero", func(s *Settings) { s.MaxGasPrice = "0" }, "claims.max_gas_price"},
		{"points", func(s *Settings) { s.MaxGasPrice = "1.5.1" }, "claims.max_gas_price"},
		{"least", func(s *Settings) { s.Least = "12 AGIX" }, `claims.least is "12 AGIX"`},
	}
	for _, test := range tests {
		settings := DefaultSettings()
		test.change(&settings)
		err := settings.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, wanted %q", test.name, err, test.want)
		}
	}
	price, err := (&Settings{MaxGasPrice: "1.5"}).maxPrice()
	if err != nil || price.Int64() != 1_500_000_000 {
		t.Errorf("1.5 gwei are %s wei, %v", price, err)
	}
}

func TestKeys(t *testing.T) {
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	digits := hexOf(crypto.FromECDSA(key))
	write := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, content := range []string{digits, "0x" + digits, digits + "\r\n"} {
		if read, err := (&Settings{KeyFile: write(content)}).Key(); err != nil || !read.Equal(key) {
			t.Errorf("a key was not read: %v", err)
		}
	}
	for _, content := range []string{"", digits[1:], digits + digits, strings.Repeat("0", 64), strings.Repeat("zz", 32), strings.Repeat("a", maxKeyFile+1)} {
		_, err := ReadKeyFile(write(content))
		if err == nil || strings.Contains(err.Error(), digits[2:20]) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	if _, err := ReadKeystore(write("{}"), write("a password")); err == nil || strings.Contains(err.Error(), "a password") {
		t.Errorf("an empty keystore: %v", err)
	}
	if read, err := (&Settings{}).Key(); read != nil || err != nil {
		t.Errorf("no key gives %v, %v", read, err)
	}
}
