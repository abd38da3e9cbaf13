// Package authz is the decision about one call: it turns payment headers into a payment, asks the ledger to charge it,
// and answers Envoy's ext_authz filter. When a charged call ends badly, Envoy's access log tells it and it refunds.
package authz
