// Package blockchain is what a provider has to know about the Ethereum chain
// to be paid: the byte layout and signatures of every payment message, the
// MultiPartyEscrow (MPE) and Registry contracts, the metadata of organisation
// and service, the height of the chain and a cache of payment channels.
//
// It knows nothing of gRPC, Envoy or of what was charged on a channel.
//
// Amounts are in cogs (the smallest unit of the token), expirations in block
// numbers; both are 256-bit, as in the contract.
package blockchain
