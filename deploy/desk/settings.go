package desk

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/holiman/uint256"
)

// Settings say how claims are sent; mpegate serve and authz never send one and need none of them.
type Settings struct {
	Keystore     string        `koanf:"keystore" help:"Keystore file (JSON, as geth and wallets make it) with the key of the payment address, for mpegate claims. Serve and authz need no key."`
	PasswordFile string        `koanf:"password_file" help:"File whose first line is the password of claims.keystore."`
	KeyFile      string        `koanf:"key_file" help:"File with the key of the payment address as 64 hex digits, instead of claims.keystore."`
	Batch        int           `koanf:"batch" help:"Channels claimed in one transaction, 1 to 64."`
	MaxGasPrice  string        `koanf:"max_gas_price" help:"Send nothing while gas costs more than so many gwei, such as \"1.5\"; empty is no bound."`
	Timeout      time.Duration `koanf:"timeout" help:"How long a transaction of claims may take to be in a block."`
	Every        time.Duration `koanf:"every" help:"How often mpegate claims auto looks at the channels."`
	Least        string        `koanf:"least" help:"Mpegate claims auto claims a channel once so many cogs are unclaimed, such as \"500000000\"; empty claims only what is about to expire."`
	Near         uint64        `koanf:"near" help:"Mpegate claims auto claims a channel that expires within so many blocks, however little it has; 0 takes the group's payment_expiration_threshold."`
}

// DefaultSettings name no key.
func DefaultSettings() Settings {
	return Settings{Batch: 50, Timeout: 10 * time.Minute, Every: 10 * time.Minute}
}

// Validate names every setting that cannot be used, its value and what to write instead.
func (s *Settings) Validate() error {
	var faults []error
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	switch {
	case s.Keystore != "" && s.KeyFile != "":
		fault("claims.keystore and claims.key_file are both set: keep one")
	case s.Keystore != "" && s.PasswordFile == "":
		fault("claims.keystore is set and claims.password_file is not: name the file with its password")
	case s.Keystore == "" && s.PasswordFile != "":
		fault("claims.password_file is set and claims.keystore is not: name the keystore file")
	}
	if s.Batch < 1 || s.Batch > AtOnce {
		fault("claims.batch is %d: write a number from 1 to %d", s.Batch, AtOnce)
	}
	within := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			fault("%s is %s: write a duration from %s to %s, such as 10m", key, value, least, most)
		}
	}
	within("claims.timeout", s.Timeout, time.Second, 24*time.Hour)
	within("claims.every", s.Every, time.Second, 30*24*time.Hour)
	if _, err := s.maxPrice(); err != nil {
		faults = append(faults, err)
	}
	if _, err := s.LeastCogs(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// Key reads the key of the payment address; nil when none is named.
func (s *Settings) Key() (*ecdsa.PrivateKey, error) {
	switch {
	case s.Keystore != "":
		return ReadKeystore(s.Keystore, s.PasswordFile)
	case s.KeyFile != "":
		return ReadKeyFile(s.KeyFile)
	}
	return nil, nil
}

// maxPrice is MaxGasPrice in wei; nil is no bound.
func (s *Settings) maxPrice() (*big.Int, error) {
	if s.MaxGasPrice == "" {
		return nil, nil
	}
	gwei, valid := new(big.Rat).SetString(s.MaxGasPrice)
	if !valid || gwei.Sign() <= 0 || len(s.MaxGasPrice) > 40 || strings.Trim(s.MaxGasPrice, "0123456789.") != "" {
		return nil, fmt.Errorf("claims.max_gas_price is %q: write a number of gwei such as 1.5", s.MaxGasPrice)
	}
	wei := gwei.Mul(gwei, new(big.Rat).SetInt64(1e9))
	return new(big.Int).Quo(wei.Num(), wei.Denom()), nil
}

// nothing is more than any channel holds.
var nothing = new(uint256.Int).SetAllOne()

// LeastCogs is Least as an amount; more than there is when it is empty.
func (s *Settings) LeastCogs() (uint256.Int, error) {
	if s.Least == "" {
		return *nothing, nil
	}
	least, err := uint256.FromDecimal(s.Least)
	if err != nil {
		return uint256.Int{}, fmt.Errorf("claims.least is %q: write a number of cogs", s.Least)
	}
	return *least, nil
}
