package demo

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/envoy"
)

// keep prints what to try while everything goes on running.
func (s *story) keep(ctx context.Context) error {
	payment, err := s.payer.Payment(uint256.NewInt(s.signed + price))
	if err != nil {
		return err
	}
	header := func(name string) string { return payment.Get(name)[0] }
	signature := base64.StdEncoding.EncodeToString([]byte(header(envoy.HeaderChannelSignature)))
	fmt.Fprintf(s.teller.output, `
Everything goes on running until Ctrl-C. Things to try in another terminal:

  A call that is not paid, refused with code 3 (the sample service has reflection, which is paid too, hence -proto):
    grpcurl -plaintext -import-path deploy/demo/sample/samplev1 -proto sample.proto -d '{"text": "hello"}' \
      %[1]s sample.v1.Sample/Echo

  The next call of the client's channel, paid; a second time it is refused, since the amount is spent:
    grpcurl -plaintext -import-path deploy/demo/sample/samplev1 -proto sample.proto -d '{"text": "hello"}' \
      -H '%[2]s: %[3]s' -H '%[4]s: %[5]s' \
      -H '%[6]s: %[7]s' -H '%[8]s: %[9]s' \
      %[1]s sample.v1.Sample/Echo

  The service itself, behind the gate:  %[10]s
  The chain (JSON-RPC):                 %[11]s  MultiPartyEscrow %[12]s
  Settings, metadata and channel state: %[13]s
`,
		s.stage.address,
		envoy.HeaderChannelID, header(envoy.HeaderChannelID), envoy.HeaderChannelNonce, header(envoy.HeaderChannelNonce),
		envoy.HeaderChannelAmount, header(envoy.HeaderChannelAmount), envoy.HeaderChannelSignature, signature,
		s.stage.service, s.stage.chain.HTTPURL, s.stage.chain.MPE, s.stage.folder)
	return ctx.Err()
}
