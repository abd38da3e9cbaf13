package desk

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/crypto"
)

const maxKeyFile = 64 << 10

// ReadKeystore reads the key of a keystore file as geth and wallets write it (Web3 Secret Storage). The password is
// the first line of its own file. Errors show neither.
func ReadKeystore(file, passwordFile string) (*ecdsa.PrivateKey, error) {
	content, err := readSmall("--keystore", file)
	if err != nil {
		return nil, err
	}
	password, err := readSmall("--password-file", passwordFile)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(password, []byte("\n"))
	key, err := keystore.DecryptKey(content, strings.TrimSuffix(string(line), "\r"))
	switch {
	case errors.Is(err, keystore.ErrDecrypt):
		return nil, fmt.Errorf("--keystore %s cannot be opened with the password in %s", file, passwordFile)
	case err != nil:
		return nil, fmt.Errorf("--keystore %s is no keystore file: give the JSON file that geth or a wallet has made", file)
	}
	return key.PrivateKey, nil
}

// ReadKeyFile reads a key written as 64 hex digits. Errors do not show them.
func ReadKeyFile(file string) (*ecdsa.PrivateKey, error) {
	content, err := readSmall("--key-file", file)
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(content)), "0x"))
	if err != nil {
		return nil, fmt.Errorf("--key-file %s holds no key: write 64 hex digits and nothing else", file)
	}
	key, err := crypto.ToECDSA(raw)
	if err != nil {
		return nil, fmt.Errorf("--key-file %s holds no key: write 64 hex digits and nothing else", file)
	}
	return key, nil
}

func readSmall(flag, name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", flag, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", flag, err)
	}
	if len(content) > maxKeyFile {
		return nil, fmt.Errorf("%s %s is larger than 64KiB: that is no key", flag, name)
	}
	return content, nil
}
