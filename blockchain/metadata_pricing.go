package blockchain

import (
	"fmt"
	"strings"

	"github.com/holiman/uint256"
)

// Price models of service metadata.
const (
	priceModelFixed     = "fixed_price"
	priceModelPerMethod = "fixed_price_per_method"
	priceModelDynamic   = "dynamic_pricing"
)

// maxPricedMethods bounds the methods with a price of their own.
const maxPricedMethods = 10_000

type (
	pricingDocument struct {
		Default bool             `json:"default"`
		Model   string           `json:"price_model"`
		Price   integerText      `json:"price_in_cogs"`
		Package string           `json:"package_name"`
		Details []detailDocument `json:"details"`
	}
	detailDocument struct {
		Service string                  `json:"service_name"`
		Methods []methodPricingDocument `json:"method_pricing"`
	}
	methodPricingDocument struct {
		Method string      `json:"method_name"`
		Price  integerText `json:"price_in_cogs"`
	}
)

// parsePricing reads the default entry; what the others say does not matter. Metadata from before the field
// "default" existed has one entry without it: a single entry is the default, whatever it says.
func parsePricing(notes *notes, entries []pricingDocument) Pricing {
	var chosen *pricingDocument
	defaults := 0
	for i := range entries {
		if entries[i].Default {
			chosen = &entries[i]
			defaults++
		}
	}
	switch {
	case len(entries) == 0:
		notes.fault("pricing is missing or empty: add one entry, such as %s", `{"default":true,"price_model":"fixed_price","price_in_cogs":1}`)
		return Pricing{}
	case defaults > 1:
		notes.fault(`pricing has %d entries with "default": true: leave it on one of them`, defaults)
		return Pricing{}
	case defaults == 0 && len(entries) > 1:
		notes.fault(`none of the %d entries of pricing has "default": true: set it on the one that is to be charged`, len(entries))
		return Pricing{}
	case defaults == 0:
		chosen = &entries[0]
		notes.warn(`the only entry of pricing has no "default": true: it is taken as the default`)
	}
	return parsePricingEntry(notes, chosen)
}

func parsePricingEntry(notes *notes, entry *pricingDocument) Pricing {
	switch entry.Model {
	case priceModelFixed:
		if entry.Price.missing() {
			notes.fault("price_in_cogs is missing in the pricing entry with price_model %s: set the price of a call in cogs", priceModelFixed)
			return Pricing{}
		}
		price := parseInteger(notes, "price_in_cogs", entry.Price)
		return Pricing{Fixed: &price}
	case priceModelPerMethod:
		return Pricing{PerMethod: parseMethodPrices(notes, entry)}
	case priceModelDynamic:
		notes.fault("price_model %s is not supported yet: use %s or %s", priceModelDynamic, priceModelFixed, priceModelPerMethod)
	case "":
		notes.fault("price_model is missing in the default entry of pricing: set %s or %s", priceModelFixed, priceModelPerMethod)
	default:
		notes.fault("price_model is %s, which is not known: set %s or %s", quoted(entry.Model), priceModelFixed, priceModelPerMethod)
	}
	return Pricing{}
}

func parseMethodPrices(notes *notes, entry *pricingDocument) map[string]uint256.Int {
	checkName(notes, "package_name", entry.Package, true)
	prefix := "/"
	if entry.Package != "" {
		prefix += entry.Package + "."
	}
	prices := map[string]uint256.Int{}
	for _, detail := range entry.Details {
		checkName(notes, "service_name", detail.Service, false)
		for _, method := range detail.Methods {
			checkName(notes, "method_name", method.Method, false)
			path := prefix + detail.Service + "/" + method.Method
			if _, twice := prices[path]; twice {
				notes.fault("the price of %s is given twice: remove one of them", quoted(path))
			}
			prices[path] = parseInteger(notes, fmt.Sprintf("price_in_cogs of %s", quoted(path)), method.Price)
			if tooMuch(notes, len(prices)) {
				return nil
			}
		}
	}
	if len(prices) == 0 {
		notes.fault("details is missing or has no methods in the pricing entry with price_model %s: list each method with its price", priceModelPerMethod)
	}
	return prices
}

// tooMuch stops at an absurd number of methods or of faults.
func tooMuch(notes *notes, methods int) bool {
	const maxFaults = 20
	if methods > maxPricedMethods {
		notes.fault("pricing lists more than %d methods", maxPricedMethods)
		return true
	}
	return len(notes.faults) > maxFaults
}

// checkName refuses names that could not be part of the path they stand for.
func checkName(notes *notes, field, name string, optional bool) {
	switch {
	case name == "" && !optional:
		notes.fault("%s is missing in the details of pricing: set the name as in the .proto file", field)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }):
		notes.fault("%s is %s: write the name as in the .proto file, without / and spaces", field, quoted(name))
	}
}

// String is for logs: a fixed price, or how many methods have one.
func (p Pricing) String() string {
	if p.Fixed != nil {
		return p.Fixed.Dec() + " cogs a call"
	}
	return fmt.Sprintf("%d methods with a price each", len(p.PerMethod))
}
