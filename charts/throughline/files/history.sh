# What `helm test` runs: an interaction of a made-up client goes in at ingestion, and the client's history has it.
run="helm-test-$(date +%s)-$$"
throughline channels add helm_test --name "Helm test" --digital --automated --group helm_test
throughline sources add helm_test --name "Helm test" --channel helm_test
echo "{\"source\":\"helm_test\",\"source_interaction_id\":\"$run\",\"channel\":\"helm_test\",\"kind\":\"visit\",
  \"occurred_at\":$(date +%s)000000,\"identifiers\":[{\"type\":\"loyalty_card\",\"value\":\"$run\",\"assurance\":\"verified\"}]}" |
  tr -d '\n' | throughline record -
throughline status --wait 120
throughline history --identifier "loyalty_card=$run" --output json | tee "${TMPDIR:-/tmp}/history.json"
grep -q helm_test "${TMPDIR:-/tmp}/history.json"
echo "recorded and read back: $run"
