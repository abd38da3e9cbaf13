package blockchain

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Bounds of metadata.max_size, in bytes. The archive of .proto files is fetched under the same limit.
const (
	lowestMaxSize  = 1 << 10
	highestMaxSize = 1 << 30
)

// MetadataSettings says where the metadata of organisation and service is found.
type MetadataSettings struct {
	OrganizationID string `koanf:"organization_id"` // as registered
	ServiceID      string `koanf:"service_id"`      // as registered
	GroupName      string `koanf:"group_name"`      // the payment group to serve, in both documents

	OrganizationFile string `koanf:"organization_file"` // a local file instead of the Registry's URI
	ServiceFile      string `koanf:"service_file"`      // a local file instead of the Registry's URI

	IPFSEndpoint    string        `koanf:"ipfs_endpoint"`    // Kubo RPC, for ipfs:// URIs
	FilecoinGateway string        `koanf:"filecoin_gateway"` // HTTP gateway, the CID is appended, for filecoin:// URIs
	FetchTimeout    time.Duration `koanf:"fetch_timeout"`    // of one fetch with its retries
	MaxSize         int64         `koanf:"max_size"`         // bytes of one fetched document
	RefreshInterval time.Duration `koanf:"refresh_interval"` // between two looks at the Registry or the files
	CheckCID        bool          `koanf:"check_cid"`        // refuse content that does not match its CID
}

// DefaultMetadataSettings has every value that has a default.
func DefaultMetadataSettings() MetadataSettings {
	return MetadataSettings{
		GroupName:       "default_group",
		IPFSEndpoint:    "https://ipfs.singularitynet.io:443",
		FilecoinGateway: "https://gateway.lighthouse.storage/ipfs/",
		FetchTimeout:    30 * time.Second,
		MaxSize:         10 << 20,
		RefreshInterval: 15 * time.Second,
		CheckCID:        true,
	}
}

// Validate joins a sentence for every fault. It is called only where the blockchain is enabled.
func (s *MetadataSettings) Validate() error {
	return errors.Join(
		validateRegisteredID("metadata.organization_id", s.OrganizationID),
		validateRegisteredID("metadata.service_id", s.ServiceID),
		s.validateGroupName(),
		validateHTTPEndpoint("metadata.ipfs_endpoint", s.IPFSEndpoint, "https://ipfs.singularitynet.io:443"),
		validateHTTPEndpoint("metadata.filecoin_gateway", s.FilecoinGateway, "https://gateway.lighthouse.storage/ipfs/"),
		s.validateMaxSize(),
		validateDuration("metadata.fetch_timeout", s.FetchTimeout, time.Second, 10*time.Minute),
		validateDuration("metadata.refresh_interval", s.RefreshInterval, time.Second, 24*time.Hour),
	)
}

// FromFiles tells whether nothing is asked of the Registry.
func (s *MetadataSettings) FromFiles() bool {
	return s.OrganizationFile != "" && s.ServiceFile != ""
}

func validateRegisteredID(key, value string) error {
	if value == "" {
		return fmt.Errorf("%s is missing: set the id under which it is registered", key)
	}
	if _, err := registryID(key, value); err != nil {
		return err
	}
	return nil
}

func (s *MetadataSettings) validateGroupName() error {
	if strings.TrimSpace(s.GroupName) == "" {
		return errors.New(`metadata.group_name is empty: set the group_name of the payment group in the metadata, such as "default_group"`)
	}
	return nil
}

func (s *MetadataSettings) validateMaxSize() error {
	if s.MaxSize < lowestMaxSize || s.MaxSize > highestMaxSize {
		return fmt.Errorf("metadata.max_size is %d: set a number of bytes from %d to %d", s.MaxSize, int64(lowestMaxSize), int64(highestMaxSize))
	}
	return nil
}

// validateHTTPEndpoint does not show the value: it may hold a password or a key.
func validateHTTPEndpoint(key, value, example string) error {
	parsed, err := url.Parse(value)
	if err != nil || parsed.Host == "" || (parsed.Scheme != "http" && parsed.Scheme != "https") {
		return fmt.Errorf("%s is not an http or https URL: set one such as %s", key, example)
	}
	if parsed.Fragment != "" {
		return fmt.Errorf("%s has a part after #: remove it", key)
	}
	return nil
}
