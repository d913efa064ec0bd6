import SwiftUI

/// Measures the model on this device, and shares the JSON.
struct BenchView: View {
    @ObservedObject var model: LocalModel
    @State private var json = ""
    @State private var failure = ""
    @State private var measuring = false

    var body: some View {
        NavigationStack {
            ScrollView {
                Text(failure.isEmpty ? json : failure)
                    .font(.system(.footnote, design: .monospaced))
                    .textSelection(.enabled)
                    .frame(maxWidth: .infinity, alignment: .leading)
            }
            .padding()
            .overlay { if measuring { ProgressView("128 tokens, 64 new ones after each, 5 times") } }
            .navigationTitle("Measure")
            .toolbar {
                Button("Measure", action: measure).disabled(!model.ready || measuring)
                ShareLink(item: json).disabled(json.isEmpty)
            }
        }
    }

    private func measure() {
        measuring = true
        json = ""
        failure = ""
        Task {
            do {
                json = try await model.bench()
            } catch {
                failure = String(describing: error)
            }
            measuring = false
        }
    }
}
