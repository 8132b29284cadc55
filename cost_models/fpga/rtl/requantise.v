// Sums to the activations of the next layer: arithmetic right shift, ReLU, saturation. Combinational.
module requantise #(
    parameter WORDS = 1,
    parameter ACC   = 16,
    parameter BO    = 8,
    parameter SHIFT = 0
) (
    input  wire [WORDS*ACC-1:0] sums,
    output reg  [WORDS*BO-1:0]  activations
);
    integer i;
    reg signed [ACC+BO-1:0] shifted;
    reg signed [ACC-1:0]    sum;

    always @* begin
        sum = 0;
        shifted = 0;
        for (i = 0; i < WORDS; i = i + 1) begin
            sum = sums[i*ACC +: ACC];
            shifted = sum >>> SHIFT;
            if (shifted < 0) activations[i*BO +: BO] = 0;
            else if ((shifted >>> BO) != 0) activations[i*BO +: BO] = {BO{1'b1}};
            else activations[i*BO +: BO] = shifted[BO-1:0];
        end
    end
endmodule
