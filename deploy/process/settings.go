package process

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mpegate/mpegate/authz"
	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/deploy/desk"
	"github.com/mpegate/mpegate/envoy"
	"github.com/mpegate/mpegate/envoy/bootstrap"
)

// Settings are all settings of a process; each section is checked by the package that uses it.
type Settings struct {
	Listen       ListenSettings                `koanf:"listen"`
	Service      ServiceSettings               `koanf:"service"`
	Blockchain   blockchain.Settings           `koanf:"blockchain"`
	Metadata     blockchain.MetadataSettings   `koanf:"metadata"`
	ChannelState channelstate.Settings         `koanf:"channel_state"`
	Payment      channelstate.TokenSettings    `koanf:"payment"`
	FreeCalls    channelstate.FreeCallSettings `koanf:"free_calls"`
	AllowList    authz.AllowListSettings       `koanf:"allow_list"`
	Operators    OperatorsSettings             `koanf:"operators"`
	Settlement   authz.SettlementSettings      `koanf:"settlement"`
	Claims       desk.Settings                 `koanf:"claims"`
	Authz        AuthzSettings                 `koanf:"authz"`
	Envoy        envoy.Settings                `koanf:"envoy"`
	Admin        AdminSettings                 `koanf:"admin"`
	Start        StartSettings                 `koanf:"start"`
	Stop         StopSettings                  `koanf:"stop"`
	Log          LogSettings                   `koanf:"log"`

	warnings []string // of reading
}

// ListenSettings say where clients connect.
type ListenSettings struct {
	Address string `koanf:"address" help:"Address and port on which clients call the service (gRPC and gRPC-Web); port 0 takes a free one."`
}

// ServiceSettings describe the paid service.
type ServiceSettings struct {
	Endpoint       string        `koanf:"endpoint" help:"The paid gRPC service: http://host:port without TLS, https://host:port with it."`
	CAFile         string        `koanf:"ca_file" help:"Certificates (PEM) that the certificate of an https service must come from; empty takes those of the system."`
	Timeout        time.Duration `koanf:"timeout" help:"Longest time of a whole call, streaming ones too; an earlier deadline of the client counts."`
	MaxMessageSize int64         `koanf:"max_message_size" help:"Largest request that announces its size (browsers do); the service has to refuse larger messages of other clients itself."`
}

// AuthzSettings say where the payment decision is made.
type AuthzSettings struct {
	Address      string        `koanf:"address" help:"Where Envoy asks for the payment decision: host:port or unix:/path. Empty: serve takes a private Unix socket, authz 127.0.0.1:7391."`
	CheckTimeout time.Duration `koanf:"check_timeout" help:"Longest time one payment decision may take."`
}

// StartSettings bound the start.
type StartSettings struct {
	Timeout time.Duration `koanf:"timeout" help:"How long the chain node and the metadata may stay unreachable at start before the process gives up."`
}

// StopSettings bound the stop.
type StopSettings struct {
	Timeout time.Duration `koanf:"timeout" help:"How long the stop may take after envoy.drain_time, refunds and stores included; then the process ends all the same."`
}

// DefaultAuthzAddress is where a process of role authz listens unless told otherwise.
const DefaultAuthzAddress = "127.0.0.1:7391"

// DefaultSettings are those of a process that was given none.
func DefaultSettings() *Settings {
	decision := authz.DefaultSettings()
	return &Settings{
		Listen:       ListenSettings{Address: "127.0.0.1:8080"},
		Service:      ServiceSettings{Endpoint: "http://127.0.0.1:5000", Timeout: 100 * time.Second, MaxMessageSize: 4 << 20},
		Blockchain:   blockchain.DefaultSettings(),
		Metadata:     blockchain.DefaultMetadataSettings(),
		ChannelState: channelstate.DefaultSettings(),
		Payment:      channelstate.DefaultTokenSettings(),
		FreeCalls:    channelstate.DefaultFreeCallSettings(),
		AllowList:    decision.AllowList,
		Settlement:   decision.Settlement,
		Claims:       desk.DefaultSettings(),
		Authz:        AuthzSettings{CheckTimeout: decision.CheckTimeout},
		Envoy:        envoy.Defaults(),
		Admin:        AdminSettings{Address: DefaultAdminAddress},
		Start:        StartSettings{Timeout: 30 * time.Second},
		Stop:         StopSettings{Timeout: 15 * time.Second},
		Log:          defaultLogSettings(),
	}
}

// Warnings are things worth telling the operator that are no faults.
func (s *Settings) Warnings() []string {
	list := slices.Clone(s.warnings)
	open := func(key, address, risk string) {
		if parsed, err := envoy.ParseAddress(address); err == nil && !parsed.Local() {
			list = append(list, fmt.Sprintf("%s %s can be reached from other machines, and %s: keep it on a private network", key, address, risk))
		}
	}
	open("admin.address", s.Admin.Address, "has no authentication")
	open("authz.address", s.Authz.Address, "whoever reaches it can report calls as failed and get them refunded")
	return list
}

// decision are the settings as package authz wants them.
func (s *Settings) decision() authz.Settings {
	return authz.Settings{CheckTimeout: s.Authz.CheckTimeout, AllowList: s.AllowList, Settlement: s.Settlement}
}

// Validate checks all sections for a role and joins every fault. It fills in what follows from other settings.
func (s *Settings) Validate(role Role) error {
	decision := s.decision()
	faults := []error{
		s.validateChain(),
		qualify("authz", decision.Validate()),
		decision.ValidateNetwork(s.Blockchain.Enabled, s.Blockchain.Network),
		s.validateOperators(),
		s.Claims.Validate(),
		s.Log.Validate(),
		s.validateTimes(),
		s.validateAddresses(role),
	}
	if s.Blockchain.Enabled {
		faults = append(faults, qualify("metadata", s.Metadata.Validate()), qualify("channel_state", s.ChannelState.Validate()),
			qualify("payment", s.Payment.Validate()), qualify("free_calls", s.FreeCalls.Validate()))
	}
	if role == RoleServe {
		faults = append(faults, qualify("envoy", s.Envoy.Validate()), s.validateService())
	}
	return errors.Join(faults...)
}

func (s *Settings) validateChain() error {
	faults := flatten(qualify("blockchain", s.Blockchain.Validate()))
	for _, fault := range faults {
		if strings.HasPrefix(fault.Error(), "blockchain.network ") {
			return fault // what would follow from the network is missing because of it
		}
	}
	if s.Blockchain.Enabled && s.Blockchain.RegistryAddress == "" && !s.Metadata.FromFiles() {
		faults = append(faults, errors.New("blockchain.registry_address is missing: set the Registry's address, "+
			"or take the metadata from metadata.organization_file and metadata.service_file"))
	}
	return errors.Join(faults...)
}

func (s *Settings) validateTimes() error {
	var faults []error
	within := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			faults = append(faults, fmt.Errorf("%s is %s: write a duration from %s to %s", key, showDuration(value), showDuration(least), showDuration(most)))
		}
	}
	within("service.timeout", s.Service.Timeout, time.Millisecond, 24*time.Hour)
	within("start.timeout", s.Start.Timeout, time.Second, time.Hour)
	within("stop.timeout", s.Stop.Timeout, time.Second, time.Hour)
	if s.Service.MaxMessageSize < 1<<10 || s.Service.MaxMessageSize > 2<<30 {
		faults = append(faults, fmt.Errorf("service.max_message_size is %s: write a size from 1KiB to 2GiB", showSize(uint64(max(s.Service.MaxMessageSize, 0)))))
	}
	return errors.Join(faults...)
}

// validateAddresses checks each listening address and that no two meet.
func (s *Settings) validateAddresses(role Role) error {
	var faults []error
	taken := map[string]string{} // port -> key
	check := func(key, text string, mayBeSocket bool) {
		address, err := envoy.ParseAddress(text)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s is %w", key, err))
		case address.Path != "" && !mayBeSocket:
			faults = append(faults, fmt.Errorf("%s is %q: write host:port, such as 127.0.0.1:7390", key, text))
		case address.Path == "" && address.Port != 0:
			for other, otherKey := range taken {
				if sameListener(text, other) {
					faults = append(faults, fmt.Errorf("%s is %s and %s is %s: both would listen on one port, choose another for one of them", otherKey, other, key, text))
				}
			}
			taken[text] = key
		}
	}
	if role == RoleServe {
		check("listen.address", s.Listen.Address, false)
		if address, err := envoy.ParseAddress(s.Listen.Address); err == nil && address.IsName() && address.Host != "localhost" {
			faults = append(faults, fmt.Errorf("listen.address is %s: write an IP address of this machine, such as 0.0.0.0 for all of them", address))
		}
	}
	check("admin.address", s.Admin.Address, false)
	if s.Authz.Address != "" {
		check("authz.address", s.Authz.Address, true)
	}
	if s.Envoy.Admin != "" && role == RoleServe && len(faults) == 0 {
		check("envoy.admin", s.Envoy.Admin, true)
	}
	return errors.Join(faults...)
}

// sameListener says whether two TCP addresses cannot both be listened on: the same port, and hosts that are the same
// or of which one means every address.
func sameListener(first, second string) bool {
	a, errA := envoy.ParseAddress(first)
	b, errB := envoy.ParseAddress(second)
	if errA != nil || errB != nil || a.Path != "" || b.Path != "" || a.Port != b.Port || a.Port == 0 {
		return false
	}
	everywhere := func(host string) bool { return host == "0.0.0.0" || host == "::" }
	return a.Host == b.Host || everywhere(a.Host) || everywhere(b.Host) || a.Local() && b.Local()
}

func (s *Settings) validateService() error {
	service, err := s.serviceAddress()
	if err != nil {
		return err
	}
	var faults []error
	address := envoy.Address{Host: service.Host, Port: service.Port}
	local := address.Local() || service.Host == "0.0.0.0" || service.Host == "::"
	if listen, err := envoy.ParseAddress(s.Listen.Address); err == nil && local && sameListener(s.Listen.Address, address.String()) {
		faults = append(faults, fmt.Errorf("listen.address is %s and service.endpoint is %s: the service would call itself, give one of them another port", listen, s.Service.Endpoint))
	}
	if s.Service.CAFile != "" && !service.TLS {
		faults = append(faults, fmt.Errorf("service.ca_file is set and service.endpoint is %s: write https:// to use TLS, or remove service.ca_file", s.Service.Endpoint))
	}
	return errors.Join(faults...)
}

// serviceAddress takes service.endpoint apart: http://host:port, https://host:port or host:port.
func (s *Settings) serviceAddress() (bootstrap.Service, error) {
	text := s.Service.Endpoint
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	wrong := func(why string) error {
		return fmt.Errorf("service.endpoint is %q, %s: write http://host:port, or https://host:port for a service with TLS", s.Service.Endpoint, why)
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil:
		return bootstrap.Service{}, errors.New("service.endpoint is no URL: write http://host:port, or https://host:port for a service with TLS")
	case parsed.User != nil:
		return bootstrap.Service{}, errors.New("service.endpoint holds a user (not shown): remove it, gRPC does not use it")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return bootstrap.Service{}, wrong("whose scheme is " + parsed.Scheme)
	case parsed.Hostname() == "":
		return bootstrap.Service{}, wrong("which names no host")
	case strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "":
		return bootstrap.Service{}, wrong("whose path has no meaning for gRPC")
	}
	port := parsed.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[parsed.Scheme]
	}
	address, err := envoy.ParseAddress(netJoin(parsed.Hostname(), port))
	if err != nil || address.Port == 0 {
		return bootstrap.Service{}, wrong("whose port is no number from 1 to 65535")
	}
	return bootstrap.Service{Host: address.Host, Port: address.Port, TLS: parsed.Scheme == "https", CAFile: s.Service.CAFile}, nil
}

func netJoin(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// qualify completes the names of settings in the errors of a section's own package: etcd.username becomes
// channel_state.etcd.username. A name without a dot counts only at the beginning, where it is no everyday word.
func qualify(section string, err error) error {
	if err == nil {
		return nil
	}
	var dotted, plain []string
	for _, setting := range knownSettings {
		name, inside := strings.CutPrefix(setting.Key, section+".")
		switch {
		case !inside:
		case strings.Contains(name, "."):
			dotted = append(dotted, regexp.QuoteMeta(name))
		default:
			plain = append(plain, regexp.QuoteMeta(name))
		}
	}
	pattern := regexp.MustCompile(`(^|[^\w.])(` + strings.Join(append(dotted, `\x00`), "|") + `)\b`)
	beginning := regexp.MustCompile(`^(` + strings.Join(append(plain, `\x00`), "|") + `)\b`)
	var faults []error
	for _, fault := range flatten(err) {
		text := pattern.ReplaceAllString(fault.Error(), "${1}"+section+".${2}")
		text = beginning.ReplaceAllString(text, section+".${1}")
		if text == fault.Error() {
			faults = append(faults, fault)
			continue
		}
		faults = append(faults, &redactedError{text: text, err: fault})
	}
	return errors.Join(faults...)
}

// Summary says in a few lines what a process with these settings does, without secrets.
func (s *Settings) Summary(role Role) []string {
	var lines []string
	if role == RoleServe {
		lines = append(lines, fmt.Sprintf("clients call %s, calls go to %s (timeout %s, messages up to %s)",
			s.Listen.Address, s.Service.Endpoint, showDuration(s.Service.Timeout), showSize(uint64(s.Service.MaxMessageSize))))
	}
	if role == RoleAuthz {
		address := s.Authz.Address
		if address == "" {
			address = DefaultAuthzAddress
		}
		lines = append(lines, "Envoy asks for decisions at "+address)
	}
	if !s.Blockchain.Enabled {
		if s.AllowList.Enabled {
			return append(lines, "blockchain.enabled is false: calls signed by an address of allow_list.addresses pass without payment")
		}
		return append(lines, "blockchain.enabled is false: every call passes without payment")
	}
	lines = append(lines, "chain: "+s.Blockchain.String(), "service: "+s.metadataSource(), "channel state: "+s.storePlace())
	if s.AllowList.Enabled {
		lines = append(lines, fmt.Sprintf("only the %d addresses of allow_list.addresses are served", len(s.AllowList.Addresses)))
	}
	secrets := slices.Sorted(maps.Keys(s.setSecrets()))
	if len(secrets) > 0 {
		lines = append(lines, "secrets: "+strings.Join(secrets, " (set), ")+" (set)")
	}
	return lines
}

func (s *Settings) metadataSource() string {
	place := fmt.Sprintf("organization %s, service %s, group %s", s.Metadata.OrganizationID, s.Metadata.ServiceID, s.Metadata.GroupName)
	if s.Metadata.OrganizationFile != "" || s.Metadata.ServiceFile != "" {
		place += fmt.Sprintf(", from %s and %s", s.Metadata.OrganizationFile, s.Metadata.ServiceFile)
	}
	return place
}

func (s *Settings) storePlace() string {
	switch s.ChannelState.Store {
	case channelstate.StoreEmbedded:
		folder, err := filepath.Abs(s.ChannelState.Embedded.DataDir)
		if err != nil {
			folder = s.ChannelState.Embedded.DataDir
		}
		return "embedded etcd in " + folder
	case channelstate.StoreEtcd:
		if len(s.ChannelState.Etcd.Endpoints) == 0 {
			return "etcd at the endpoints of the organization's metadata"
		}
		return "etcd at " + strings.Join(s.ChannelState.Etcd.Endpoints, ", ")
	}
	return "memory, lost when the process ends"
}
