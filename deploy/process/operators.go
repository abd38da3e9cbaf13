package process

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/channelstate/proto/configuration"
)

// OperatorsSettings say who may ask ConfigurationService.
type OperatorsSettings struct {
	Addresses []string `koanf:"addresses" help:"Addresses (0x and 40 hex digits) of the operators, who may read the settings and stop and start calls through ConfigurationService; empty refuses everyone."`
}

const maxOperators = 1000

// compile gives the addresses listed.
func (s *OperatorsSettings) compile() ([]common.Address, error) {
	if len(s.Addresses) > maxOperators {
		return nil, fmt.Errorf("operators.addresses has %d addresses: list at most %d", len(s.Addresses), maxOperators)
	}
	var faults []error
	var listed []common.Address
	for i, text := range s.Addresses {
		text = strings.TrimSpace(text)
		address := common.HexToAddress(text)
		if !strings.HasPrefix(text, "0x") || !common.IsHexAddress(text) || address == (common.Address{}) {
			faults = append(faults, fmt.Errorf("operators.addresses[%d] is %q: write an address, 0x and 40 hex digits", i, text))
			continue
		}
		listed = append(listed, address)
	}
	return listed, errors.Join(faults...)
}

func (s *Settings) validateOperators() error {
	_, err := s.Operators.compile()
	return err
}

// openSwitch reads and follows the operators' switch of the group.
func (p *process) openSwitch(ctx context.Context, store channelstate.SharedStore, group channelstate.Group) (*channelstate.Switch, error) {
	opened, err := channelstate.OpenSwitch(ctx, store, group, p.settings.ChannelState, p.logger.Logger)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", partState, err)
	}
	p.background("operators' switch", opened.Run)
	return opened, p.registerAll(gauge("calls_stopped", "1 while an operator has stopped calls.", func() float64 {
		if opened.Stopped() {
			return 1
		}
		return 0
	}))
}

// configuration tells the settings for operators. What is secret is left out, and so are credentials in URLs.
func (p *process) configuration() *configuration.ConfigurationResponse {
	reply := &configuration.ConfigurationResponse{CurrentConfiguration: map[string]string{}, Schema: &configuration.ConfigurationSchema{}}
	value := reflect.ValueOf(p.settings).Elem()
	for i := range knownSettings {
		setting := &knownSettings[i]
		if setting.Secret || setting.secretFile != "" {
			continue
		}
		section, _, _ := strings.Cut(setting.Key, ".")
		reply.CurrentConfiguration[setting.Key] = p.redactor.Text(showDefault(setting.Key, value.FieldByIndex(setting.index)))
		reply.Schema.Details = append(reply.Schema.Details, &configuration.ConfigurationParameter{
			Name: setting.Key, Description: setting.Help, Section: section, DefaultValue: setting.Default,
			Type: parameterType(setting), RestartDaemon: configuration.ConfigurationParameter_RESTART_REQUIRED,
		})
	}
	return reply
}

func parameterType(setting *Setting) configuration.ConfigurationParameter_Type {
	switch {
	case setting.Type == "true or false":
		return configuration.ConfigurationParameter_BOOLEAN
	case setting.Type == "whole number":
		return configuration.ConfigurationParameter_INTEGER
	case strings.HasSuffix(setting.Key, "_url"), setting.Key == "service.endpoint":
		return configuration.ConfigurationParameter_URL
	case setting.Key == "blockchain.registry_address":
		return configuration.ConfigurationParameter_ADDRESS
	}
	return configuration.ConfigurationParameter_STRING
}
