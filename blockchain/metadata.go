package blockchain

import (
	"fmt"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
)

// Kinds of service, the values of service_type.
const (
	ServiceTypeGRPC    = "grpc"
	ServiceTypeHTTP    = "http"
	ServiceTypeJSONRPC = "jsonrpc"
	ServiceTypeProcess = "process"
)

// Payload encodings, the values of encoding.
const (
	EncodingProto = "proto"
	EncodingJSON  = "json"
)

// Organization is the metadata an organisation publishes in the Registry.
type Organization struct {
	ID, Name string
	Groups   []OrganizationGroup
}

// OrganizationGroup is one payment group: who is paid, and on which terms.
type OrganizationGroup struct {
	Name           string
	IDText         string   // base64, as clients sign it
	ID             [32]byte // as channels hold it
	PaymentAddress common.Address
	// ExpirationThreshold is how many blocks before its expiration a channel is no longer served.
	ExpirationThreshold uint64
	// StorageEndpoints and the two timeouts are the etcd cluster the organisation names; zero where it names none.
	StorageEndpoints                  []string
	ConnectionTimeout, RequestTimeout time.Duration

	faults, warnings []string
}

// Service is the metadata published for one service.
type Service struct {
	DisplayName string
	Encoding    string // EncodingProto or EncodingJSON
	Type        string // one of the ServiceType constants
	APISource   string // URI of the archive of .proto files, "" when none is published
	MPE         common.Address
	Groups      []ServiceGroup

	warnings []string
}

// ServiceGroup is how one payment group offers the service.
type ServiceGroup struct {
	Name           string
	Endpoints      []string // where clients reach the replicas
	Pricing        Pricing
	FreeCalls      uint64
	FreeCallSigner common.Address // zero: no free calls

	groupIDText      string // the copy clients read, compared with the organisation's
	faults, warnings []string
}

// Pricing is what a call costs, in cogs. Exactly one field is set.
type Pricing struct {
	Fixed     *uint256.Int
	PerMethod map[string]uint256.Int // by full method, such as /package.Service/Method
}

// Price returns the price of a method, given as in an HTTP/2 path. Not defined means that the method is not for sale.
func (p Pricing) Price(method string) (price uint256.Int, defined bool) {
	if p.Fixed != nil {
		return *p.Fixed, true
	}
	price, defined = p.PerMethod[method]
	return price, defined
}

// Metadata is what the configured payment group needs of both documents. It is never changed once built.
type Metadata struct {
	OrganizationID, ServiceID   string
	Organization                *Organization
	Service                     *Service
	Group                       *OrganizationGroup
	ServiceGroup                *ServiceGroup
	OrganizationURI, ServiceURI string
	// Warnings are sentences about what works but is likely a mistake of the publisher.
	Warnings []string
}

// Resolve picks the configured group out of both documents and checks it. Faults of other groups do not matter.
func Resolve(organization *Organization, service *Service, organizationID, serviceID, groupName string) (*Metadata, error) {
	group, organizationError := pickGroup("organisation", organization.Groups, groupName,
		func(g *OrganizationGroup) (string, []string) { return g.Name, g.faults })
	offer, serviceError := pickGroup("service", service.Groups, groupName,
		func(g *ServiceGroup) (string, []string) { return g.Name, g.faults })
	if err := joinFaults(organizationError, serviceError); err != nil {
		return nil, err
	}
	metadata := &Metadata{
		OrganizationID: organizationID, ServiceID: serviceID,
		Organization: organization, Service: service, Group: group, ServiceGroup: offer,
	}
	metadata.Warnings = append(metadata.Warnings, group.warnings...)
	metadata.Warnings = append(metadata.Warnings, service.warnings...)
	metadata.Warnings = append(metadata.Warnings, offer.warnings...)
	if organization.ID != "" && organization.ID != organizationID {
		metadata.Warnings = append(metadata.Warnings, fmt.Sprintf(
			"organisation metadata: org_id is %s, but metadata.organization_id is %s", quoted(organization.ID), quoted(organizationID)))
	}
	if offer.groupIDText != "" && offer.groupIDText != group.IDText {
		metadata.Warnings = append(metadata.Warnings, fmt.Sprintf(
			"service metadata: group_id of group %s is %s, but the organisation metadata has %s: clients that open channels "+
				"for the first one will be refused; publish the service metadata again", quoted(groupName), quoted(offer.groupIDText), group.IDText))
	}
	return metadata, nil
}

func pickGroup[G any](document string, groups []G, name string, describe func(*G) (string, []string)) (*G, error) {
	var found *G
	var faults, names []string
	for i := range groups {
		groupName, groupFaults := describe(&groups[i])
		names = append(names, quoted(groupName))
		if groupName != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s metadata: two groups are named %s: rename or remove one of them", document, quoted(name))
		}
		found, faults = &groups[i], groupFaults
	}
	if found == nil {
		return nil, fmt.Errorf("%s metadata: it has no group %s, only %s: set metadata.group_name to one of them",
			document, quoted(name), firstOf(names, 10))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%s metadata, group %s: %s", document, quoted(name), strings.Join(faults, "; "))
	}
	return found, nil
}

func firstOf(names []string, count int) string {
	if len(names) > count {
		return strings.Join(names[:count], ", ") + fmt.Sprintf(" and %d more", len(names)-count)
	}
	return strings.Join(names, ", ")
}
