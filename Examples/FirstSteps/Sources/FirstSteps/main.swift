import Folding
import TensorizedAttention
import Torch

// 4096 tokens as a tensor of 32 × 128: a token meets 32 + 128 keys instead of up to 4096.
let pattern = AttentionPattern(fold: Fold([32, 128]), rotary: Rotary(.mode))
let generator = Generator(seed: 1)
let q = Tensor.randn([1, 8, 4096, 64], generator: generator)  // [batch, heads, tokens, width]
let k = Tensor.randn([1, 2, 4096, 64], generator: generator)  // 4 query heads share a key head
let v = Tensor.randn([1, 2, 4096, 64], generator: generator)

// Forward and backward, on the SIMD kernels.
q.requiresGrad = true
let output = tensorizedAttention(queries: q, keys: k, values: v, pattern: pattern).output
output.square().mean().backward()
print("output", output.shape, "gradient of q", q.grad?.shape ?? [])

// Every token is reached by all tokens before it, and by none after it.
let reach = pattern.reach(tokens: 4096)
print("\(reach.reached) of \(reach.possible) pairs, \(pattern.fold.keysPerToken) keys a token")
let properties = try PatternProperties(of: pattern, tokens: 4096)
let leaks = properties.leak()?.leaks.count ?? 0
print("leaks: \(leaks), rows sum to one: \(properties.rowSums().passed)")

// Decoding keeps a cache that only grows: the last token alone equals the whole sequence's last row.
let cache = TensorizedAttentionCache(pattern: pattern)
let rows = { (x: Tensor, tokens: Range<Int>) in
  x.narrow(axis: 2, from: tokens.lowerBound, count: tokens.count)
}
var last = output
for tokens in [0..<4095, 4095..<4096] {
  last = cache.attend(queries: rows(q, tokens), keys: rows(k, tokens), values: rows(v, tokens))
}
let error = (last - rows(output, 4095..<4096)).abs().max().item(Double.self)
print("decoded token 4095, off by", error < 1e-5 ? "less than 1e-5" : "\(error)")

// What a token attends to: one row of the attention matrix that the two passes make together.
let row = impliedAttentionRow(token: 4095, queries: q[0][0], keys: k[0][0], pattern: pattern)
let sum = (row.reduce(0, +) * 1e6).rounded() / 1e6
print("\(row.filter { $0 > 0 }.count) tokens with weight, which sum to \(sum)")
